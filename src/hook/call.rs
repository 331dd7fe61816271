//! One call of the hook: `gpuferry hook qemu GUEST OPERATION SUB-OPERATION EXTRA`. Runs in the daemon's shadow: it
//! answers quickly for guests that are none of ours, and acts on cards only through their units.

use super::{
    Guest,
    hold::{self, Hold, Stage},
    is_off, watch,
};
use crate::{
    error::{Error, Result, Status},
    handover::{
        client::{self, new_op},
        record::millis,
        request::{Request, Way},
        snapshot::Card,
    },
    host,
    machine::{Machine, live::Live},
    pci::Address,
    plan::live::VFIO,
    step::live::driver_of,
    vm::{
        self,
        domain::{self, Domain},
    },
};
use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

/// How long one write of a hand-over may take before it counts as hanging.
pub(super) const WRITE: Duration = Duration::from_secs(30);

/// What the hook was called with.
#[derive(Debug)]
struct Call<'c> {
    name: &'c str,
    operation: &'c str,
    part: &'c str,
}

/// Answers the daemon. `words` are the four of <https://libvirt.org/hooks.html>. The input is read only if it counts.
pub fn main(words: &[OsString], input: &mut dyn Read) -> Status {
    let text: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
    // A name that is no text cannot have been enabled.
    let [name, operation, part, _] = text.as_slice() else { return Status::Done };
    let call = Call { name, operation, part };
    let machine = match Live::open(Path::new("/")) {
        Ok(machine) => machine,
        Err(error) => return answer(&call, &Error::io("open", Path::new("/"), &error)),
    };
    match run(&machine, &call, input) {
        Ok(()) => Status::Done,
        Err(error) => answer(&call, &error),
    }
}

/// The daemon puts standard error behind its own words, into its log and before the user. At `reconnect` a failure
/// would end the guest that runs, at `started` too; after its end, nobody asks.
fn answer(call: &Call, error: &Error) -> Status {
    let text = format!("gpuferry: {}: {error}", call.name);
    let _ = writeln!(io::stderr(), "{text}");
    if matches!(call.operation, "prepare" | "start") { error.status } else { Status::Done }
}

fn run(machine: &Live, call: &Call, input: &mut dyn Read) -> Result<()> {
    let acts = matches!(
        (call.operation, call.part),
        ("prepare" | "start" | "started" | "reconnect", "begin") | ("stopped" | "release", "end")
    );
    if !acts {
        return Ok(());
    }
    let guest = match Guest::load(machine, call.name) {
        // Only root may look, and only root may do anything: a session's own daemon is none of ours.
        Err(_) if !rustix::process::geteuid().is_root() => return Ok(()),
        guest => guest,
    };
    match (call.operation, guest) {
        ("prepare", guest) => guest?.map_or(Ok(()), |guest| prepare(machine, call, &guest, input)),
        // A guest that was disabled meanwhile, or whose record is damaged, has its cards all the same.
        (_, guest) if guest.as_ref().is_ok_and(Option::is_none) && !is_known(machine, call.name) => Ok(()),
        (operation, guest) => {
            let uuid = uuid(call, guest.ok().flatten().as_ref(), input)?;
            let Some(hold) = hold::load(machine, &uuid)? else { return Ok(()) };
            match operation {
                "start" => still_there(machine, &hold),
                "stopped" => Hold { stage: Stage::Ended, ..hold }.save(machine),
                "release" => release(machine, hold),
                _ => running(machine, hold),
            }
        }
    }
}

fn is_known(machine: &Live, name: &str) -> bool {
    // An unreadable record may be this guest's.
    hold::all(machine).map_or(true, |all| all.iter().any(|hold| hold.name == name))
}

/// The domain in the input; `None` where there is none that can be read.
fn read(input: &mut dyn Read) -> Result<Domain> {
    let mut text = Vec::new();
    let limit = u64::try_from(domain::MAX_XML).unwrap_or(u64::MAX) + 1;
    // A closed standard input reads as an empty one.
    let _ = input.take(limit).read_to_end(&mut text);
    domain::hostdevs(&String::from_utf8_lossy(&text)).map_err(|error| {
        Error::failed(format!("what libvirt told of the guest cannot be read: {error}"))
            .detail("which cards it takes is not known, so it gets none")
    })
}

/// The domain's UUID: from the input, else as it was enabled.
fn uuid(call: &Call, guest: Option<&Guest>, input: &mut dyn Read) -> Result<String> {
    let read = read(input).and_then(|domain| {
        domain.uuid.ok_or_else(|| Error::failed(format!("the domain {} has no UUID", call.name)))
    });
    match (read, guest.and_then(|guest| guest.uuid.clone())) {
        (Ok(uuid), _) | (Err(_), Some(uuid)) => Ok(uuid),
        (Err(error), None) => Err(error),
    }
}

fn prepare(machine: &Live, call: &Call, guest: &Guest, input: &mut dyn Read) -> Result<()> {
    let domain = read(input)?;
    let uuid = domain.uuid.clone();
    let uuid = uuid.ok_or_else(|| Error::failed(format!("the domain {} has no UUID", call.name)))?;
    if guest.uuid.as_ref().is_some_and(|enabled| !enabled.eq_ignore_ascii_case(&uuid)) {
        return Err(Error::refused("this is another domain than the one that was enabled by that name")
            .hint(format!("gpuferry hook enable {}   enables this one", call.name)));
    }
    if domain.hostdevs.is_empty() {
        return Ok(());
    }
    if is_off(machine) {
        // Left to itself, libvirt would take managed devices away from the host without looking.
        return Err(Error::refused(
            "gpuferry.off=1 is on the kernel command line: no card is handed over in this boot",
        )
        .hint("take the word out and reboot, or hand the card over by hand: gpuferry detach ADDR"));
    }
    client::nothing_hangs(machine)?;
    // Whoever brings home what this domain had before is waited for.
    let home = hold::file(&uuid, "home")?;
    hold::make_folder(machine)?;
    let _homing = hold::wait_for_lock(machine, &home, Duration::from_secs(60))?;
    let hold = claim(machine, call, &domain, &uuid)?;
    // Watched from the first write on: whoever is killed after this, the cards come home.
    let lent = watch::start(machine, &hold).and_then(|()| lend(machine, guest, &hold));
    lent.map_err(|error| back(machine, &hold, error))
}

/// Decides that this domain gets its cards, or names who has them.
fn claim(machine: &Live, call: &Call, domain: &Domain, uuid: &str) -> Result<Hold> {
    let cards = Card::find_all(&host::observe_for_hand_over(machine), &domain.addresses())?;
    let _deciding = hold::decide(machine)?;
    let mut borrowed = Vec::new();
    for card in &cards {
        let has = |address: &Address| driver_of(machine, *address).as_deref() == Some(VFIO);
        if !card.functions.iter().all(has) {
            borrowed.push(card.address);
        }
    }
    for other in hold::all(machine)? {
        let own = other.uuid == uuid;
        let Some(card) = cards.iter().find(|card| own || other.has(card)) else { continue };
        let _homing = if own {
            None
        } else {
            if !other.is_left(machine) {
                return Err(taken(card, &format!("the guest {} has it", other.name))
                    .hint(format!("virsh shutdown {}   and start this one when it has ended", other.name)));
            }
            let path = hold::file(&other.uuid, "home")?;
            let lock = machine.lock(&path).map_err(|error| Error::io("lock", &path, &error))?;
            Some(lock.ok_or_else(|| taken(card, &format!("it comes home from the guest {}", other.name)))?)
        };
        // Its guest is gone, and its cards are not home: they are this one's now, and go home with its end.
        borrowed
            .extend(other.borrowed.iter().filter(|known| cards.iter().any(|card| card.address == **known)));
        other.forget(machine)?;
    }
    for guest in vm::list(machine) {
        let has = |card: &&Card| guest.cards.iter().any(|address| card.functions.contains(address));
        if let Some(card) = cards.iter().find(has).filter(|_| guest.pid.is_some() || guest.watched) {
            return Err(taken(card, &format!("the guest {} has it", guest.name))
                .hint("gpuferry status   shows who has which card"));
        }
    }
    for card in &cards {
        if let Some(holder) = hold::inside(machine, std::slice::from_ref(card)).first() {
            return Err(taken(card, &format!("{} has it", holder.shown()))
                .hint("gpuferry status   shows who has which card"));
        }
    }
    borrowed.sort();
    borrowed.dedup();
    let hold = Hold {
        schema: 1,
        uuid: uuid.to_owned(),
        name: call.name.to_owned(),
        cards,
        borrowed,
        stage: Stage::Starting,
        daemon: hold::daemon(machine),
        qemu: None,
        since_ms: millis(machine.now()),
    };
    hold.save(machine)?;
    Ok(hold)
}

fn taken(card: &Card, who: &str) -> Error {
    Error::refused(format!("{} ({}) is not free: {who}", card.address, card.name))
}

fn lend(machine: &Live, guest: &Guest, hold: &Hold) -> Result<()> {
    for address in &hold.borrowed {
        let request = request(machine, hold, *address, Way::Lend, Some(guest));
        let lent = client::carry_out(machine, super::has_systemd(machine), &request);
        lent.map_err(|error| match error.status {
            Status::Refused => error.hint(format!(
                "gpuferry hook enable {} --stop WHO   says who may be stopped for it",
                guest.name
            )),
            _ => error,
        })?;
    }
    Ok(())
}

pub(super) fn request(
    machine: &dyn Machine,
    hold: &Hold,
    address: Address,
    way: Way,
    guest: Option<&Guest>,
) -> Request {
    Request {
        together: hold.cards.iter().map(|card| card.address).filter(|other| *other != address).collect(),
        stop: guest.map(|guest| guest.stop.clone()).unwrap_or_default(),
        guest: Some(hold.name.clone()),
        wishes: guest.map(|guest| guest.wishes.clone()).unwrap_or_default(),
        ..Request::new(format!("{}-{address}", new_op(machine)), way, address, WRITE)
    }
}

/// The start is refused: what was handed over for it goes home. The failure is told with how that went.
fn back(machine: &Live, hold: &Hold, failure: Error) -> Error {
    match watch::home(machine, hold) {
        Ok(()) => failure,
        Err(home) => {
            let mut both = failure.with_status(Status::NotUndone).detail(home.message);
            both.details.extend(home.details);
            both.hints.extend(home.hints);
            both
        }
    }
}

/// libvirt has looked at the devices by now: each has to be where `prepare` left it.
fn still_there(machine: &Live, hold: &Hold) -> Result<()> {
    for address in hold.cards.iter().flat_map(|card| &card.functions) {
        let driver = driver_of(machine, *address);
        if driver.as_deref() != Some(VFIO) {
            let driver = driver.unwrap_or_else(|| "no driver".to_owned());
            return Err(Error::failed(format!("{address} was handed over, and {driver} has it now"))
                .hint("gpuferry history   shows what was done to it"));
        }
    }
    Ok(())
}

/// Its process has the cards: whoever watches waits for that one's end.
fn running(machine: &Live, hold: Hold) -> Result<()> {
    let qemu = hold.inside(machine).first().and_then(|holder| hold::identity(machine, holder.pid));
    let daemon = hold::daemon(machine).or(hold.daemon);
    let hold = Hold { stage: Stage::Running, qemu: qemu.or(hold.qemu), daemon, ..hold };
    hold.save(machine)?;
    watch::start(machine, &hold)
}

fn release(machine: &Live, hold: Hold) -> Result<()> {
    let hold = Hold { stage: Stage::Ended, ..hold };
    hold.save(machine)?;
    watch::bring_home(machine, &hold)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that fails the test where it is read.
    struct Unread;
    impl Read for Unread {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("the input was read")
        }
    }

    fn call(words: &[&str], input: &mut dyn Read) -> Status {
        main(&words.iter().map(OsString::from).collect::<Vec<_>>(), input)
    }

    #[test]
    fn a_guest_that_was_not_enabled_is_none_of_ours() {
        for operation in ["prepare", "start", "started", "reconnect", "migrate", "restore", "attach", "x"] {
            assert_eq!(call(&["no such guest", operation, "begin", "-"], &mut Unread), Status::Done);
        }
        for operation in ["stopped", "release"] {
            assert_eq!(call(&["no such guest", operation, "end", "-"], &mut Unread), Status::Done);
        }
        assert_eq!(call(&["../../etc/passwd", "prepare", "begin", "-"], &mut Unread), Status::Done);
        assert_eq!(call(&["too", "few"], &mut Unread), Status::Done);
        assert_eq!(call(&[], &mut Unread), Status::Done);
    }

    #[test]
    fn what_cannot_be_read_names_no_cards() {
        for wrong in ["", "<domain", "<domain/>", "x"] {
            let error = read(&mut wrong.as_bytes()).unwrap_err();
            assert_eq!(error.status, Status::Undone);
            assert!(error.message.contains("cannot be read"), "{}", error.message);
        }
        let large = format!("<domain><name>x</name>{}</domain>", " ".repeat(50 << 20));
        assert!(read(&mut large.as_bytes()).unwrap_err().message.contains("too large"));
    }

    #[test]
    fn the_uuid_is_the_domains_or_the_one_that_was_enabled() {
        let call = Call { name: "a", operation: "release", part: "end" };
        let guest = Guest {
            schema: 1,
            name: "a".into(),
            uuid: Some("2".into()),
            stop: Vec::new(),
            wishes: crate::handover::request::Wishes::default(),
        };
        let xml = "<domain><name>a</name><uuid>1</uuid></domain>";
        assert_eq!(uuid(&call, Some(&guest), &mut xml.as_bytes()).unwrap(), "1");
        assert_eq!(uuid(&call, Some(&guest), &mut "".as_bytes()).unwrap(), "2");
        assert!(uuid(&call, None, &mut "".as_bytes()).is_err());
    }

    #[test]
    fn a_failure_at_reconnect_does_not_end_the_guest() {
        let call = |operation| Call { name: "a", operation, part: "begin" };
        for operation in ["reconnect", "started", "stopped", "release"] {
            assert_eq!(answer(&call(operation), &Error::failed("x")), Status::Done);
        }
        assert_eq!(answer(&call("prepare"), &Error::refused("x")), Status::Refused);
    }
}
