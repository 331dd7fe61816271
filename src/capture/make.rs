//! Makes a capture: looks at a machine through a door that remembers, takes out what is personal, packs the rest.

use super::{
    archive::{LIMITS, Unpacked, unpack},
    manifest::{self, LeftOut, Manifest, NAME, Part, Told},
    record::{Held, Recorder, Seen},
    redact,
    scrub::Scrubber,
};
use crate::{
    error::{Error, Result, said},
    host::{self, Host},
    machine::{
        Root,
        tree::{Entry, Tree},
    },
    plan::sources::Sources,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Component, Path},
};

/// A capture, and the machine that it is of.
#[derive(Debug)]
pub struct Made {
    /// The archive: tar in zstd.
    pub bytes: Vec<u8>,
    /// What it says of itself.
    pub manifest: Manifest,
    /// The machine as it was seen while the capture was made.
    pub host: Host,
}

/// Looks at a machine and packs everything that the looking read: for `inspect`, `doctor` and `plan`.
pub fn make(root: &dyn Root, personal_data: bool) -> Result<Made> {
    let recorder = Recorder::new(root);
    let host = host::observe(&recorder);
    // What cannot be read is remembered as such; the verbs that need it say so themselves.
    let _ = host::log::kernel(&recorder);
    let _ = Sources::read(&recorder);
    let scrub = (!personal_data).then(|| scrubber(root));
    let (entries, mut manifest) = pack(recorder.seen(), scrub.as_ref());
    let mut tree = Tree::default();
    for (path, entry) in &entries {
        // What the machine holds has no clashes with itself.
        let _ = tree.put(Path::new(path), entry.clone());
    }
    manifest.plant(&mut tree);
    let before = json(&host)?;
    let seen_again = json(&host::observe(&tree))?;
    manifest.fields = differences(&before, &seen_again);
    let bytes = archive(&entries, &manifest)
        .map_err(|error| Error::failed(format!("the capture cannot be packed: {}", said(&error))))?;
    // A capture that cannot be read is worse than none.
    match unpack("the capture", bytes.as_slice(), &LIMITS)? {
        Unpacked::Tree(mut tree) => {
            manifest::complete("the capture", &mut tree)?;
            if json(&host::observe(&tree))? != seen_again {
                return Err(Error::failed("the capture does not read back as it was packed"));
            }
        }
        Unpacked::Bytes(_) => return Err(Error::failed("the capture does not read back as an archive")),
    }
    Ok(Made { bytes, manifest, host })
}

fn json(host: &Host) -> Result<Value> {
    serde_json::to_value(host).map_err(|error| Error::failed(format!("cannot write JSON: {error}")))
}

/// What is personal on a machine: its name, its users' names. Read beside the recording.
fn scrubber(root: &dyn Root) -> Scrubber {
    let read = |path: &str| root.text(Path::new(path)).ok().filter(|text| !text.is_empty());
    let host = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname"));
    let passwd = read("/etc/passwd").unwrap_or_default();
    let person = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        // System accounts are below 1000, nobody is 65534 (systemd: UIDs and GIDs).
        (1000..65534).contains(&uid).then(|| name.to_owned())
    };
    let mut users: Vec<String> = passwd.lines().filter_map(person).collect();
    for home in root.list(Path::new("/home")).unwrap_or_default() {
        users.extend(home.into_string().ok().filter(|name| !users.contains(name) && name != "lost+found"));
    }
    // Those of a directory service stand in no file, but they have sessions (src/login/logind-session.c).
    let sessions = Path::new("/run/systemd/sessions");
    for session in root.list(sessions).unwrap_or_default() {
        let text = root.text(&sessions.join(session)).unwrap_or_default();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let person = value("UID=").and_then(|uid| uid.parse::<u32>().ok()).is_some_and(|uid| uid >= 1000);
        users.extend(
            value("USER=").filter(|name| person && !users.iter().any(|user| user == name)).map(str::to_owned),
        );
    }
    let secret = read("/etc/machine-id").map(String::into_bytes);
    let secret = secret.or_else(|| root.read_start(Path::new("/dev/urandom"), 32).ok()).unwrap_or_default();
    Scrubber::new(&secret, host.as_deref(), &users)
}

type Entries = BTreeMap<String, Entry>;

/// What was seen, without what is personal, as entries of an archive and the rest.
fn pack(seen: Seen, scrub: Option<&Scrubber>) -> (Entries, Manifest) {
    let place = |path: &Path| match scrub {
        Some(scrub) => redact::path(scrub, path),
        None => path.to_str().map(str::to_owned),
    };
    let mut entries = Entries::new();
    let mut manifest = Manifest {
        schema: manifest::SCHEMA,
        gpuferry: env!("CARGO_PKG_VERSION").to_owned(),
        personal_data: scrub.is_none(),
        ..Manifest::default()
    };
    let mut dropped: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut lists: HashMap<Vec<String>, usize> = HashMap::new();
    for (path, held) in seen.held {
        let Some(to) = place(&path) else { continue };
        match held {
            Held::Folder(None) => {}
            Held::Folder(Some(names)) => {
                let inside = |name| {
                    let whole = place(&path.join(name))?;
                    whole.rsplit('/').next().map(str::to_owned)
                };
                let names: Vec<String> = names.iter().filter_map(inside).collect();
                let next = lists.len();
                let list = *lists.entry(names).or_insert(next);
                manifest.folders.insert(to, list);
            }
            Held::File { bytes, .. } => {
                let content = match scrub {
                    Some(scrub) => redact::content(scrub, &path, &bytes),
                    None => Ok(bytes),
                };
                match content {
                    Ok(bytes) => drop(entries.insert(to, Entry::File(bytes))),
                    Err(why) => *dropped.entry(why).or_default() += 1,
                }
            }
            Held::Link(target) => {
                if scrub.is_some_and(|scrub| !redact::link(scrub, &path, &target)) {
                    continue;
                }
                let Some(target) = place(&target) else { continue };
                if stays(&to, Path::new(&target)) {
                    entries.insert(to, Entry::Link(target.into()));
                } else {
                    manifest.links.insert(to, target);
                }
            }
            Held::Closed(errno) => drop(manifest.errors.insert(to, errno)),
            Held::TooLarge => *dropped.entry("files of more than 16 MiB").or_default() += 1,
        }
    }
    manifest.stats =
        seen.stats.iter().filter_map(|(path, stat)| Some((place(path)?, Told::of(stat)))).collect();
    let mut ordered: Vec<(Vec<String>, usize)> = lists.into_iter().collect();
    ordered.sort_by_key(|(_, place)| *place);
    manifest.name_lists = ordered.into_iter().map(|(names, _)| names).collect();
    manifest.went_in = parts(&entries);
    let replaced = scrub.map(Scrubber::counts).unwrap_or_default();
    manifest.left_out = replaced
        .into_iter()
        .map(|(kind, count)| LeftOut { what: kind.word().to_owned(), count, replaced: true })
        .chain(dropped.into_iter().map(|(what, count)| LeftOut {
            what: what.to_owned(),
            count,
            replaced: false,
        }))
        .collect();
    (entries, manifest)
}

/// Whether a link's target is one that any archive may hold: relative, and never above the root.
fn stays(path: &str, target: &Path) -> bool {
    let mut depth = Path::new(path).components().count().saturating_sub(2);
    target.components().all(|component| match component {
        Component::ParentDir => {
            let inside = depth > 0;
            depth = depth.saturating_sub(1);
            inside
        }
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::RootDir | Component::Prefix(_) => false,
    }) && !target.as_os_str().is_empty()
}

fn parts(entries: &Entries) -> Vec<Part> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for (path, entry) in entries {
        let Entry::File(bytes) = entry else { continue };
        let folders = path.split('/').skip(1).count().saturating_sub(1).min(2);
        let folder: String = path.split('/').skip(1).take(folders).flat_map(|part| ["/", part]).collect();
        let part = parts.entry(folder.clone()).or_insert(Part { path: folder, files: 0, bytes: 0 });
        part.files += 1;
        part.bytes += bytes.len() as u64;
    }
    parts.into_values().collect()
}

fn archive(entries: &Entries, manifest: &Manifest) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
    text.push(b'\n');
    let manifest = Entry::File(text);
    let all = std::iter::once((NAME, &manifest))
        .chain(entries.iter().map(|(path, entry)| (path.trim_start_matches('/'), entry)));
    for (path, entry) in all {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_mode(0o644);
        match entry {
            Entry::File(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, bytes.as_slice())?;
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                builder.append_link(&mut header, path, target)?;
            }
            Entry::Folder | Entry::Closed(_) | Entry::Name => {}
        }
    }
    let plain = builder.into_inner()?;
    Ok(ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest))
}

/// Fields that differ, as `network[].addresses`; what the machine is read from always does.
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    differ(one, other, "", &mut found);
    found.remove("source");
    found.into_iter().collect()
}

fn differ(one: &Value, other: &Value, at: &str, found: &mut BTreeSet<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let (one, other) = (one.get(name), other.get(name));
                differ(one.unwrap_or(&Value::Null), other.unwrap_or(&Value::Null), &path, found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                differ(one, other, &format!("{at}[]"), found);
            }
        }
        _ if one == other => {}
        _ => drop(found.insert(at.to_owned())),
    }
}

#[cfg(test)]
#[path = "make_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "planted_tests.rs"]
mod planted;
