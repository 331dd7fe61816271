//! A very small shell over the agent: each line is a command of its own, so `cd` does not last.

use anyhow::Result;
use lab::Host;
use lab::host::COMMAND;
use std::io::{self, BufRead, IsTerminal, Write};

const HELP: &str = "Each line is run by the host's /bin/sh. Lines that start with a colon are for the lab:
  :reboot   :cut (power cut, then on again)   :logs (folder)   :console (what it said)   :qemu LINE (monitor)   :quit
";

/// Reads commands from standard input until its end.
pub(crate) fn talk(host: &mut Host) -> Result<()> {
    let mut out = io::stdout();
    let interactive = io::stdin().is_terminal();
    writeln!(out, "up after {:.1} s ({:?})", host.boot_time.as_secs_f64(), host.accelerator())?;
    if interactive {
        write!(out, "{HELP}")?;
    }
    let prompt = |out: &mut io::Stdout| -> Result<()> {
        if interactive {
            write!(out, "lab# ")?;
            out.flush()?;
        }
        Ok(())
    };
    prompt(&mut out)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line == ":quit" {
            break;
        }
        if let Err(error) = answer(host, &line, &mut out) {
            writeln!(out, "lab: {error:#}")?;
        }
        prompt(&mut out)?;
    }
    Ok(())
}

fn answer(host: &mut Host, line: &str, out: &mut io::Stdout) -> Result<()> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("", _) => {}
        (":reboot", _) => {
            host.try_reboot()?;
            writeln!(out, "up again after {:.1} s", host.boot_time.as_secs_f64())?;
        }
        (":cut", _) => {
            host.power_cut();
            host.start_again();
        }
        (":logs", _) => writeln!(out, "{}", host.logs().display())?,
        (":console", _) => out.write_all(&host.console().since(0))?,
        (":qemu", command) => writeln!(out, "{}", host.monitor().human(command)?)?,
        (word, _) if word.starts_with(':') => write!(out, "{HELP}")?,
        _ => {
            let done = host.try_run(line, b"", COMMAND)?;
            write!(out, "{}{}", done.stdout, done.stderr)?;
            if done.end != lab::End::Exit(0) {
                writeln!(out, "[{:?}]", done.end)?;
            }
        }
    }
    Ok(())
}
