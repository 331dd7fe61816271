//! Switching a host on and off: boots, reboots, power cuts, other machines around the same disk, rescue systems.

use super::{COMMAND, Host, must};
use crate::boot::{Kind, switch_on};
use crate::machine::Machine;
use crate::protocol::Want;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

impl Host {
    pub(super) fn switch_on(&mut self) -> Result<()> {
        let running = switch_on(&self.plan, &self.place, &mut self.controls)?;
        let start = Instant::now();
        let patience = self.plan.patience(running.accelerator);
        self.running = Some(running);
        self.boots = 1;
        self.wait_for_boot(patience)?;
        // QEMU has read it, and it is large.
        let _ = std::fs::remove_file(self.place.file("initrd"));
        self.boot_time = start.elapsed();
        Ok(())
    }

    /// Waits for the greeting of boot number `self.boots`; on failure says what the console said last.
    fn wait_for_boot(&self, patience: Duration) -> Result<()> {
        let qemu = self.qemu()?;
        qemu.agent.wait_for_boot(self.boots, patience).map(|_| ()).with_context(|| {
            let said = String::from_utf8_lossy(&qemu.console.since(0)).into_owned();
            let lines: Vec<&str> = said.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            format!("the end of the console:\n{tail}\n{}", qemu.complaints())
        })?;
        if self.plan.kind == Kind::Full {
            // The agent is up before udev has loaded all drivers. Whether that ends well is for the case to say.
            self.try_run("udevadm settle --timeout=60", b"", COMMAND)?;
        }
        Ok(())
    }

    /// Reboots and waits for the host to be back. A full host does it in the same machine (`systemctl reboot`);
    /// a small one is switched off and on and has forgotten everything.
    #[track_caller]
    pub fn reboot(&mut self) -> &Self {
        must(self.try_reboot());
        self
    }

    /// The same, with the error handed back.
    pub fn try_reboot(&mut self) -> Result<()> {
        if self.plan.kind != Kind::Full {
            self.try_power_off()?;
            return self.switch_on();
        }
        let start = Instant::now();
        self.begin_reboot()?;
        self.end_reboot(start)
    }

    /// Asks a full host to go down for a reboot; the case may type at the boot loader before [`Host::end_reboot`].
    pub(crate) fn begin_reboot(&mut self) -> Result<()> {
        if let Some(running) = &self.running {
            running.choose_boot_card_again();
        }
        let command = "systemctl reboot".to_owned();
        self.boots += 1;
        self.qemu()?.agent.tell(Want::Start { command, stdin: String::new(), wait_ms: 0, kill: false })
    }

    pub(crate) fn end_reboot(&mut self, start: Instant) -> Result<()> {
        let accelerator = self.running.as_ref().context("the host is switched off")?.accelerator;
        // Going down takes its time too.
        self.wait_for_boot(self.plan.patience(accelerator) + COMMAND)?;
        self.boot_time = start.elapsed();
        Ok(())
    }

    /// Waits until a full host that reboots by itself (after a panic, by a command it was given) is back.
    #[track_caller]
    pub fn wait_for_reboot(&mut self) -> &Self {
        self.boots += 1;
        must(self.end_reboot(Instant::now()));
        self
    }

    /// Shuts down in good order and switches off.
    #[track_caller]
    pub fn power_off(&mut self) -> &Self {
        must(self.try_power_off());
        self
    }

    /// The same, with the error handed back.
    pub fn try_power_off(&mut self) -> Result<()> {
        let command =
            if self.plan.kind == Kind::Full { "systemctl poweroff" } else { "sync; poweroff -f" }.to_owned();
        self.qemu()?.agent.tell(Want::Start { command, stdin: String::new(), wait_ms: 0, kill: false })?;
        if let Some(mut running) = self.running.take() {
            running.qemu.wait_for_end(COMMAND)?;
        }
        Ok(())
    }

    /// Pulls the plug: the machine stops at once. What the host had flushed to its disk is there at the next start.
    #[track_caller]
    pub fn power_cut(&mut self) -> &Self {
        if let Some(mut running) = self.running.take() {
            must(running.qemu.kill());
        }
        self
    }

    /// Switches on again, with the same disk.
    #[track_caller]
    pub fn start_again(&mut self) -> &Self {
        must(self.switch_on());
        self
    }

    /// Switches on again, with the same disk in another machine: a card more, a card elsewhere.
    #[track_caller]
    pub fn start_again_as(&mut self, machine: Machine) -> &Self {
        self.plan.machine = machine;
        self.start_again()
    }

    /// Powers off, and on again as another machine with the same disk.
    #[track_caller]
    pub fn reboot_as(&mut self, machine: Machine) -> &Self {
        self.power_off();
        self.start_again_as(machine)
    }

    /// Starts another system in the same machine: the small host as a rescue system, with the full host's disk
    /// attached and not mounted. [`Host::end_rescue`] starts the full host again.
    #[track_caller]
    pub fn start_rescue(&mut self) -> &Self {
        self.plan.kind = Kind::Rescue;
        self.start_again()
    }

    /// Powers the rescue system off and starts the host that is on the disk.
    #[track_caller]
    pub fn end_rescue(&mut self) -> &Self {
        self.power_off();
        self.plan.kind = Kind::Full;
        self.start_again()
    }

    /// Whether the machine runs (it ends by itself when the host powers off, and when a small host panics).
    pub fn is_on(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| !running.qemu.has_ended())
    }

    /// Waits until the machine switches itself off.
    #[track_caller]
    pub fn wait_for_power_off(&mut self, patience: Duration) -> &Self {
        if let Some(mut running) = self.running.take() {
            must(running.qemu.wait_for_end(patience));
        }
        self
    }
}
