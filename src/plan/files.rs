//! Early binding on a Debian host: which words, which files, and what has to be made again.
//!
//! A pure function of the machine's facts, its files and the goal. The words go to `GRUB_CMDLINE_LINUX_DEFAULT`,
//! which GRUB's recovery entries do not use; own drop-in files are written, nobody else's is touched.

use super::{
    goal::{BindBy, Goal},
    managers,
    names::{GRUB_DROP_IN, HOOK, INIT_TOP},
    sources::Sources,
};
use crate::{
    edit::{grub, shell},
    error::{Error, Result},
    host::{CpuVendor, Function, Host, InitramfsTool, Known, Loader, kernel},
    journal::sha256,
    judge,
    pci::Address,
    step::{FileStep, derived::Derived, early},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Files to change, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilePlan {
    /// What it is for.
    pub goal: Goal,
    /// The same in a sentence.
    pub title: String,
    /// Words that come to the kernel command line.
    pub words: Vec<String>,
    /// The steps, in order. None where everything is so already.
    pub steps: Vec<FileStep>,
    /// What the owner should know before saying yes.
    pub notes: Vec<String>,
    /// Which machine, in which state, it was made for.
    pub fingerprint: Fingerprint,
    /// Checksum of goal, words and steps.
    pub digest: String,
}

/// Which machine a plan was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Checksum of the machine's id.
    pub machine: String,
    /// Checksum of its devices, boot loader, initramfs tool and kernels.
    pub state: String,
}

/// A card that goes: all its functions, by address.
struct Card<'h> {
    functions: Vec<&'h Function>,
}

/// The plan for a goal, or why there is none.
pub fn files(host: &Host, sources: &Sources, goal: &Goal) -> Result<FilePlan> {
    let Goal::Static { gpus, bind_by } = goal;
    let cards = cards(host, gpus)?;
    for function in cards.iter().flat_map(|card| &card.functions) {
        if let Some(refusal) = judge::protect(host, function.address) {
            return Err(refusal);
        }
    }
    refuse_companions(host, &cards)?;
    let going: Vec<&Function> = cards.iter().flat_map(|card| card.functions.iter().copied()).collect();
    managers::refuse(host, &going)?;
    check_tools(host)?;
    check_grub_files(sources)?;
    let mut words: Vec<String> = iommu_word(host, sources)?.into_iter().collect();
    match bind_by {
        BindBy::Path => {
            for card in &cards {
                words.push(bind_word(card)?);
            }
        }
        BindBy::Ids => words.extend(id_words(host, &cards)?),
    }
    let steps = steps(host, sources, &words);
    let title = title(&cards, *bind_by);
    let digest = digest(goal, &words, &steps)?;
    Ok(FilePlan {
        goal: goal.clone(),
        title,
        notes: notes(host, sources, &cards),
        fingerprint: fingerprint(host, sources)?,
        words,
        steps,
        digest,
    })
}

fn cards<'h>(host: &'h Host, gpus: &[Address]) -> Result<Vec<Card<'h>>> {
    let mut cards: Vec<Card> = Vec::new();
    for address in gpus {
        let Some(function) = host.function(*address) else {
            let error = Error::usage(format!("there is no device {address} in this machine"));
            return Err(match host.gpus.as_slice() {
                [] => error.hint("gpuferry inspect devices"),
                gpus => gpus.iter().fold(error, |error, gpu| {
                    let label = host.function(gpu.address).map(Function::label).unwrap_or_default();
                    error.hint(format!("--gpu {}   {label}", gpu.address))
                }),
            });
        };
        let known = |card: &Card| card.functions.iter().any(|known| known.address == *address);
        if cards.iter().any(known) {
            continue;
        }
        let functions = match host.gpu(*address) {
            Some(gpu) => gpu.functions.iter().filter_map(|address| host.function(*address)).collect(),
            None => vec![function],
        };
        cards.push(Card { functions });
    }
    if cards.is_empty() {
        return Err(Error::usage("no card is named").hint("gpuferry plan static --gpu ADDR"));
    }
    Ok(cards)
}

fn named(function: &Function) -> String {
    format!("{} ({})", function.address, function.label())
}

fn refuse_companions(host: &Host, cards: &[Card]) -> Result<()> {
    let going: Vec<&Function> = cards.iter().flat_map(|card| card.functions.iter().copied()).collect();
    let mut companions: Vec<&Function> = Vec::new();
    for group in going.iter().filter_map(|function| host.group(function.iommu_group?)) {
        for companion in group.functions.iter().filter_map(|address| host.function(*address)) {
            let goes = going.iter().any(|function| function.address == companion.address);
            if !goes && !companion.is_pci_bridge() && !companions.contains(&companion) {
                companions.push(companion);
            }
        }
    }
    let Some(first) = companions.first() else { return Ok(()) };
    let group = first.iommu_group.unwrap_or_default();
    let error = Error::blocked(format!(
        "{} shares IOMMU group {group} with other devices, which would have to go too",
        going[0].address
    ));
    let error = companions.iter().fold(error, |error, companion| error.detail(named(companion)));
    Err(error
        .hint("gpuferry inspect groups   shows who shares what")
        .hint("another slot of the board may have a group of its own"))
}

fn check_tools(host: &Host) -> Result<()> {
    if host.boot.loader != Some(Loader::GrubDebian) {
        return Err(Error::blocked("this machine does not boot with GRUB as Debian sets it up")
            .detail("gpuferry cannot write the kernel command line here yet")
            .hint("gpuferry inspect boot"));
    }
    if host.boot.initramfs != Some(InitramfsTool::InitramfsTools) {
        return Err(Error::blocked("this machine does not build its initramfs with initramfs-tools")
            .detail("gpuferry cannot put its early script into it yet")
            .hint("gpuferry inspect boot"));
    }
    if images(host).next().is_none() {
        return Err(Error::blocked("no kernel in /boot has an initramfs").hint("update-initramfs -c -k all"));
    }
    Ok(())
}

/// Releases of the kernels whose initramfs initramfs-tools makes.
fn images(host: &Host) -> impl Iterator<Item = &String> {
    let ours = host.boot.kernels.iter().filter(|kernel| {
        kernel.initramfs.as_ref().is_some_and(|image| *image == format!("initrd.img-{}", kernel.release))
    });
    ours.map(|kernel| &kernel.release)
}

/// A settings file that the shell reads otherwise than its author meant would lose our words, or somebody else's.
fn check_grub_files(sources: &Sources) -> Result<()> {
    for (path, text) in &sources.grub {
        if let Err(flaw) = shell::check(text) {
            let line = text.lines().nth(flaw.line - 1).unwrap_or_default();
            let place = format!("{}, line {}, column {}", path.display(), flaw.line, flaw.column);
            return Err(Error::blocked(format!("{place}: {}", flaw.what))
                .detail(format!("{line}  [grub-quoting-broken]"))
                .detail(format!("right would be {}", flaw.right))
                .detail("GRUB's own tools read this file with a shell, and would go on without what is lost")
                .hint(format!("mend it: sudoedit {}", path.display())));
        }
    }
    Ok(())
}

/// The word that switches the IOMMU on, where the machine needs one.
///
/// Intel's may be given again and the last one counts (drivers/iommu/intel/iommu.c, intel_iommu_setup); AMD's is on
/// unless it is told off; `iommu=off` cannot be taken back by a later word (arch/x86/kernel/pci-dma.c).
fn iommu_word(host: &Host, sources: &Sources) -> Result<Option<String>> {
    match host.iommu.state {
        Known::On => return Ok(None),
        Known::Unknown => {
            return Err(Error::blocked("whether the IOMMU is on could not be seen")
                .hint("ls /sys/kernel/iommu_groups"));
        }
        Known::Off => {}
    }
    let intel = host.acpi.dmar == Some(true);
    let offs: &[&str] = if intel { &["iommu"] } else { &["iommu", "amd_iommu"] };
    if intel || host.acpi.ivrs == Some(true) {
        if let Some((place, word)) = word_off(host, sources, offs) {
            return Err(Error::blocked(format!("the word `{word}` turns the IOMMU off ({place})"))
                .detail("no later word takes it back")
                .hint(format!("take `{word}` out of {place}, run update-grub and reboot")));
        }
    }
    if intel {
        return Ok(Some("intel_iommu=on".to_owned()));
    }
    let finding = judge::doctor(host, None).into_iter().find(|finding| finding.id == "iommu-off");
    Err(match finding {
        None => Error::blocked("the IOMMU is off").hint("gpuferry doctor"),
        Some(finding) => {
            let error = Error::blocked(finding.title).detail(finding.cause);
            finding.fixes.into_iter().fold(error, |error, fix| {
                error.hint(
                    fix.command
                        .map_or_else(|| fix.text.clone(), |command| format!("{}: {command}", fix.text)),
                )
            })
        }
    })
}

/// A word that turns the IOMMU off, and where it stands: in a settings file if it is there, else on the running
/// kernel's command line.
fn word_off(host: &Host, sources: &Sources, names: &[&str]) -> Option<(String, String)> {
    let off = |text: &str| {
        let words = kernel::words(text);
        words.into_iter().find(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            names.iter().any(|off| kernel::same_name(name, off)) && value.split(',').any(|one| one == "off")
        })
    };
    let running = off(host.kernel.cmdline.as_deref().unwrap_or_default())?;
    let holds = |text: &String| text.lines().any(|line| !line.starts_with('#') && line.contains(&running));
    let file = sources.grub.iter().find(|(_, text)| holds(text));
    let place =
        file.map_or_else(|| "the kernel command line".to_owned(), |(path, _)| path.display().to_string());
    Some((place, running))
}

/// `VENDOR:DEVICE:SUBVENDOR:SUBDEVICE`.
fn ids(function: &Function) -> Result<String> {
    match (function.id(), function.subsystem()) {
        (Some(id), Some(subsystem)) => Ok(format!("{id}:{subsystem}")),
        _ => Err(Error::failed(format!("the ids of {} could not be read", function.address))
            .hint(format!("lspci -nn -s {}", function.address))),
    }
}

fn bind_word(card: &Card) -> Result<String> {
    let mut entries = Vec::new();
    for function in &card.functions {
        let Some(path) = &function.path else {
            return Err(
                Error::failed(format!("the way to {} could not be seen", function.address)).hint("lspci -PP")
            );
        };
        entries.push(format!("{path}={}", ids(function)?));
    }
    Ok(format!("gpuferry.bind={}", entries.join(",")))
}

fn id_words(host: &Host, cards: &[Card]) -> Result<Vec<String>> {
    let going: Vec<&Function> = cards.iter().flat_map(|card| card.functions.iter().copied()).collect();
    let mut list: Vec<String> = Vec::new();
    for function in &going {
        let own = ids(function)?;
        let twin = host.functions.iter().find(|other| {
            let same = (other.id(), other.subsystem()) == (function.id(), function.subsystem());
            same && !going.iter().any(|goes| goes.address == other.address)
        });
        if let Some(twin) = twin {
            return Err(Error::refused(format!(
                "{} has the same ids as {}, so ids cannot tell them apart",
                named(twin),
                function.address
            ))
            .detail("both would be taken from the host")
            .hint("leave --bind-by ids away: paths tell twins apart")
            .hint(format!("or name both: --gpu {} --gpu {}", function.address, twin.address)));
        }
        if !list.contains(&own) {
            list.push(own);
        }
    }
    Ok(vec![format!("vfio-pci.ids={}", list.join(",")), "gpuferry.load=vfio-pci".to_owned()])
}

fn title(cards: &[Card], bind_by: BindBy) -> String {
    let names: Vec<String> = cards.iter().map(|card| named(card.functions[0])).collect();
    let how = match bind_by {
        BindBy::Path => "",
        BindBy::Ids => ", told by ids alone",
    };
    format!("keep {} for guests from boot on{how}", names.join(" and "))
}

fn steps(host: &Host, sources: &Sources, words: &[String]) -> Vec<FileStep> {
    let own = [
        (GRUB_DROP_IN, grub::drop_in(words), 0o644),
        (HOOK, early::HOOK.to_owned(), 0o755),
        (INIT_TOP, early::INIT_TOP.to_owned(), 0o755),
    ];
    let mut steps: Vec<FileStep> = Vec::new();
    let mut image = false;
    for (path, content, mode) in own {
        let path = PathBuf::from(path);
        if sources.own.get(&path) == Some(&content) {
            continue;
        }
        image |= path != Path::new(GRUB_DROP_IN);
        let missing: Vec<_> =
            path.ancestors().skip(1).take_while(|folder| !sources.folders.contains(*folder)).collect();
        for folder in missing.into_iter().rev() {
            let step = FileStep::MakeFolder { path: folder.to_owned(), mode: 0o755 };
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        steps.push(FileStep::Write { path, content, mode });
    }
    if steps.is_empty() {
        return steps;
    }
    if image {
        let kernels = images(host).cloned();
        steps.extend(kernels.map(|kernel| FileStep::Derive(Derived::InitramfsTools { kernel })));
    }
    steps.push(FileStep::Derive(Derived::GrubDebian));
    steps
}

fn notes(host: &Host, sources: &Sources, cards: &[Card]) -> Vec<String> {
    let mut notes = Vec::new();
    let going: Vec<&Function> = cards.iter().flat_map(|card| card.functions.iter().copied()).collect();
    let goes = |address: Address| going.iter().any(|function| function.address == address);
    for function in &going {
        if let Some(gpu) = host.gpus.iter().find(|gpu| gpu.address == function.address) {
            for twin in gpu.identical_to.iter().filter(|twin| !goes(**twin)) {
                notes.push(format!("{twin} is identical and stays with the host: the slot tells them apart"));
            }
        }
        if function.boot_vga == Some(true) {
            let address = function.address;
            notes.push(format!(
                "{address} is the screen that the firmware uses: it goes dark early in the boot"
            ));
        }
        if let Some(finding) = judge::last_keyboard(host, function.address) {
            notes.push(finding.title);
        }
    }
    if host.iommu.state == Known::Off {
        notes.push(
            "which devices share an IOMMU group is known only after a reboot with the IOMMU on".to_owned(),
        );
    }
    for kernel in &host.boot.kernels {
        if !images(host).any(|release| *release == kernel.release) {
            notes.push(format!(
                "Linux {} has no initramfs of its own: nothing is bound early there",
                kernel.release
            ));
        }
    }
    let cmdline = host.kernel.cmdline.as_deref().unwrap_or_default();
    if kernel::words(cmdline).iter().any(|word| word == "gpuferry.off" || word == "gpuferry.off=1") {
        notes.push("gpuferry.off=1 is on the kernel command line now: with it nothing is bound".to_owned());
    }
    notes.extend(managers::notes(host, &going));
    if sources.crypttab.as_deref().is_some_and(|text| text.contains("tpm2")) {
        notes.push(
            "/etc/crypttab unlocks a disk by the TPM: a new initramfs or command line may make it ask for the \
             passphrase once; have it at hand"
                .to_owned(),
        );
    }
    if host.cpu.vendor == CpuVendor::Other {
        notes.push("this processor is neither Intel's nor AMD's".to_owned());
    }
    notes
}

/// A checksum of anything that can be written as JSON, whose form does not depend on the machine.
fn checksum(value: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::failed(format!("cannot write the plan: {error}")))?;
    Ok(sha256(&bytes))
}

/// Checksum of goal, words and steps.
pub fn digest(goal: &Goal, words: &[String], steps: &[FileStep]) -> Result<String> {
    checksum(&(goal, words, steps))
}

fn fingerprint(host: &Host, sources: &Sources) -> Result<Fingerprint> {
    let functions: Vec<_> = host
        .functions
        .iter()
        .map(|function| (function.address, &function.path, function.id(), function.subsystem()))
        .collect();
    Ok(Fingerprint {
        machine: sources.machine.clone().unwrap_or_default(),
        state: checksum(&(functions, &host.boot.loader, &host.boot.initramfs, &host.boot.kernels))?,
    })
}
