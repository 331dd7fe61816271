//! Archives: tar, plain or compressed by gzip, bzip2, xz or zstd, told by their first bytes.
//!
//! Unpacked into memory and nowhere else, within [`Limits`]. What a saved tree has no use for (paths that leave the
//! root, links that do, hard links, device nodes) is refused with the whole archive: who packs such things means
//! something else.

use crate::{
    error::{Error, Result, said},
    machine::tree::{Entry, Tree},
};
use std::{
    borrow::Cow,
    cell::Cell,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    rc::Rc,
};
use tar::EntryType;

/// How much of an archive is taken before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the archive when it is unpacked, headers and padding included.
    pub unpacked: u64,
    /// Bytes of what is in its files.
    pub contents: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Entries.
    pub entries: usize,
    /// Folders inside each other.
    pub depth: usize,
    /// Bytes of one name.
    pub name: usize,
    /// Bytes of one path, or of a link's target.
    pub path: usize,
}

/// The largest server that is known has some 200,000 entries of 512 bytes and as much again for their contents; names
/// and paths are what Linux has (include/uapi/linux/limits.h).
pub const LIMITS: Limits = Limits {
    unpacked: 512 << 20,
    contents: 256 << 20,
    file: 32 << 20,
    entries: 500_000,
    depth: 64,
    name: 255,
    path: 4096,
};

/// What was in it.
#[derive(Debug)]
pub enum Unpacked {
    /// A tree of files.
    Tree(Tree),
    /// No archive: text, or anything else.
    Bytes(Vec<u8>),
}

/// Memory that a window of xz may take, in KiB: `xz -9` takes 65 MiB.
const XZ_MEMORY: u32 = 128 << 10;

/// Reads an archive, or whatever else it is, to its end. `name` is what to call it in errors.
pub fn unpack(name: &str, input: impl Read, limits: &Limits) -> Result<Unpacked> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let magic = fill(&mut input, 8).map_err(|error| unreadable(name, &error))?;
    let plain: Box<dyn Read + '_> = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Zstd::new(input).map_err(|error| unreadable(name, &error))?),
        _ => Box::new(input),
    };
    let full = Rc::new(Cell::new(false));
    let mut plain = Limited { inner: plain, left: limits.unpacked, full: Rc::clone(&full) };
    let told = |error: &io::Error| {
        if full.get() { too_much(name, limits) } else { unreadable(name, error) }
    };
    let head = fill(&mut plain, 512).map_err(|error| told(&error))?;
    if is_tar(&head) {
        let archive = Reader { name, limits, told: &told };
        return archive.tree(head.as_slice().chain(plain)).map(Unpacked::Tree);
    }
    let mut bytes = head;
    plain.take(limits.file + 1 - bytes.len() as u64).read_to_end(&mut bytes).map_err(|error| told(&error))?;
    if bytes.len() as u64 > limits.file {
        return Err(Error::refused(format!("{name} is larger than a listing or log ever is"))
            .detail(format!("it is no archive, and at most {} MiB of text are read", limits.file >> 20)));
    }
    Ok(Unpacked::Bytes(bytes))
}

/// The first bytes, fewer where there are no more; a buffered reader keeps what it is asked to look at again.
fn fill<R: Peek + ?Sized>(input: &mut R, length: usize) -> io::Result<Vec<u8>> {
    input.peek_or_read(length)
}

/// What can show or give its first bytes.
trait Peek {
    fn peek_or_read(&mut self, length: usize) -> io::Result<Vec<u8>>;
}

impl<R: Read> Peek for BufReader<R> {
    fn peek_or_read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        // A pipe may give less than is asked for at first; eight bytes come in one piece from anything that writes.
        let start = self.fill_buf()?;
        Ok(start.get(..length).unwrap_or(start).to_vec())
    }
}

impl<R: Read> Peek for Limited<R> {
    fn peek_or_read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        self.by_ref().take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Gives at most so many bytes, then an error.
struct Limited<R> {
    inner: R,
    left: u64,
    full: Rc<Cell<bool>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.full.set(true);
            return Err(io::Error::other("it unpacks to too much"));
        };
        self.left = left;
        Ok(count)
    }
}

/// Frames of zstd one after the other, as `cat` and parallel packers leave them.
struct Zstd<R> {
    input: R,
    decoder: ruzstd::decoding::FrameDecoder,
    open: bool,
}

/// A frame with nothing in it (RFC 8878): magic, one segment of no bytes, an empty last block.
const NOTHING: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> io::Result<Self> {
        let mut decoder = ruzstd::decoding::FrameDecoder::new();
        // Only from its second frame on does this decoder refuse a window of more than 100 MiB.
        decoder.reset(&mut NOTHING.as_slice()).map_err(io::Error::other)?;
        Ok(Self { input, decoder, open: false })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.open {
                if self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.decoder.reset(&mut self.input).map_err(io::Error::other)?;
                self.open = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = ruzstd::decoding::BlockDecodingStrategy::UptoBytes(64 << 10);
                self.decoder.decode_blocks(&mut self.input, some).map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.open = !self.decoder.is_finished();
        }
    }
}

/// A block whose checksum is right: the sum of its bytes with the checksum's own taken as spaces (tar(5)).
fn is_tar(block: &[u8]) -> bool {
    let (Some(field), 512) = (block.get(148..156), block.len()) else { return false };
    let text = String::from_utf8_lossy(field);
    let said = u64::from_str_radix(text.trim_matches(['\0', ' ']), 8);
    let rest = block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let own = field.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    said.is_ok_and(|said| said == rest - own + 8 * 32)
}

struct Reader<'a> {
    name: &'a str,
    limits: &'a Limits,
    told: &'a dyn Fn(&io::Error) -> Error,
}

/// What a header before an entry says of it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Reader<'_> {
    fn tree(&self, input: impl Read) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut archive = tar::Archive::new(input);
        let entries = archive.entries().map_err(|error| (self.told)(&error))?;
        let (mut ahead, mut contents) = (Ahead::default(), 0);
        let mut last = String::from("its first entry");
        // Raw: headers that tell of the next entry are read here, within limits.
        for (count, entry) in entries.raw(true).enumerate() {
            if count >= self.limits.entries {
                return Err(self.refused("it has too many entries").detail(format!(
                    "more than {}; a saved /sys of the largest servers has half of that",
                    self.limits.entries
                )));
            }
            let mut entry = entry.map_err(|error| (self.told)(&error).detail(format!("after {last}")))?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::GNULongName => ahead.path = Some(self.long(&mut entry, "name")?),
                EntryType::GNULongLink => ahead.link = Some(self.long(&mut entry, "link")?),
                EntryType::XHeader => self.extended(&mut entry, &mut ahead)?,
                EntryType::XGlobalHeader => {}
                _ => {
                    let ahead = std::mem::take(&mut ahead);
                    let path = ahead.path.unwrap_or_else(|| entry.path_bytes().into_owned());
                    last = shown(&path);
                    let link = ahead.link.or_else(|| entry.link_name_bytes().map(Cow::into_owned));
                    self.entry(&mut tree, &mut entry, &path, link.as_deref(), &mut contents)?;
                }
            }
        }
        Ok(tree)
    }

    fn entry(
        &self,
        tree: &mut Tree,
        entry: &mut tar::Entry<'_, impl Read>,
        raw: &[u8],
        link: Option<&[u8]>,
        contents: &mut u64,
    ) -> Result<()> {
        let path = self.path(raw)?;
        let bad = |what: &str, right: &str| {
            Err(self.refused(format!("{} is {what}", shown(raw))).detail(right.to_owned()))
        };
        let value = match entry.header().entry_type() {
            EntryType::Directory => Entry::Folder,
            EntryType::Regular | EntryType::Continuous if raw.ends_with(b"/") => Entry::Folder,
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                *contents = contents.saturating_add(size);
                if size > self.limits.file || *contents > self.limits.contents {
                    return Err(self.refused(format!("{} makes it too large", shown(raw))).detail(format!(
                        "one file may have {} MiB, all together {} MiB",
                        self.limits.file >> 20,
                        self.limits.contents >> 20
                    )));
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(|error| (self.told)(&error))?;
                if bytes.len() as u64 != size {
                    return Err(broken(self.name, &format!("it breaks off in {}", shown(raw))));
                }
                Entry::File(bytes)
            }
            EntryType::Symlink => Entry::Link(self.target(&path, raw, link.unwrap_or_default())?),
            EntryType::Link => {
                return bad("a hard link", "a saved tree has files, folders and symbolic links");
            }
            EntryType::Char | EntryType::Block => {
                return bad("a device node", "a saved tree has files, folders and symbolic links");
            }
            EntryType::Fifo => {
                return bad("a pipe", "a saved tree has files, folders and symbolic links");
            }
            EntryType::GNUSparse => {
                return bad("a file with holes", "pack it anew without --sparse");
            }
            _ => return bad("of a kind that tar does not name", "pack it anew: tar -c sys proc etc"),
        };
        tree.put(&path, value).map_err(|clash| {
            self.refused(format!(
                "{} cannot be where it says: {} is {}",
                shown(raw),
                plain(clash.at.as_os_str().as_bytes()),
                clash.is
            ))
            .detail("each path of a saved tree is one thing, and only folders have something below them")
        })
    }

    /// A path that stays where it is put, from the root on.
    fn path(&self, raw: &[u8]) -> Result<PathBuf> {
        let named = || format!("the path of {}", shown(raw));
        let right = "paths in a saved tree go down from its top: sys/bus/pci/devices";
        if raw.len() > self.limits.path {
            return Err(self
                .refused(format!("{} is too long", named()))
                .detail(format!("at most {} bytes", self.limits.path)));
        }
        let written = Path::new(OsStr::from_bytes(raw));
        let mut path = PathBuf::from("/");
        let mut depth = 0;
        for component in written.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) if name.len() > self.limits.name || name.as_bytes().contains(&0) => {
                    return Err(self
                        .refused(format!("{} has a name that Linux cannot have", named()))
                        .detail(format!("names have at most {} bytes, none of them 0", self.limits.name)));
                }
                Component::Normal(name) => {
                    path.push(name);
                    depth += 1;
                }
                Component::ParentDir => {
                    return Err(self.refused(format!("{} leads out of it (`..`)", named())).detail(right));
                }
                Component::RootDir | Component::Prefix(_) => {
                    return Err(self.refused(format!("{} is absolute", named())).detail(right));
                }
            }
        }
        if depth > self.limits.depth {
            return Err(self.refused(format!("{} is too deep", named())).detail(format!(
                "{depth} folders inside each other; at most {} are read",
                self.limits.depth
            )));
        }
        Ok(path)
    }

    /// A link's target, where it stays inside. The kernel's own links in /sys are relative and never leave it; links
    /// of a distribution may be absolute, and then mean the saved root.
    fn target(&self, path: &Path, raw: &[u8], target: &[u8]) -> Result<PathBuf> {
        let leaves = |how: &str| {
            Err(self
                .refused(format!("the link {} leads out of it: {}", shown(raw), shown(target)))
                .detail(how.to_owned()))
        };
        if target.len() > self.limits.path || target.contains(&0) || target.is_empty() {
            return Err(self.refused(format!("the link {} has a target that Linux cannot have", shown(raw))));
        }
        let to = Path::new(OsStr::from_bytes(target));
        if to.is_absolute() {
            let folders = path.components().filter_map(|part| part.as_os_str().to_str()).skip(1).take(2);
            let first = folders.into_iter().find(|name| TOPS.contains(name));
            if first.is_none_or(|name| name == "sys") {
                return leaves("absolute links belong to a distribution's folders (etc, usr, …), not here");
            }
            return Ok(to.to_owned());
        }
        let mut depth = path.components().count().saturating_sub(2);
        for component in to.components() {
            match component {
                Component::ParentDir if depth == 0 => return leaves("it goes above the archive's top"),
                Component::ParentDir => depth -= 1,
                Component::Normal(_) => depth += 1,
                _ => {}
            }
        }
        Ok(to.to_owned())
    }

    /// GNU tar's long name or link target: the bytes of its own entry.
    fn long(&self, entry: &mut impl Read, what: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = self.limits.path as u64 + 2;
        entry.take(most).read_to_end(&mut bytes).map_err(|error| (self.told)(&error))?;
        if bytes.len() as u64 == most {
            return Err(self
                .refused(format!("it has a {what} that is too long"))
                .detail(format!("at most {} bytes", self.limits.path)));
        }
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        Ok(bytes)
    }

    /// POSIX extended headers: `LENGTH NAME=VALUE\n` (pax(1)).
    fn extended(&self, entry: &mut impl Read, ahead: &mut Ahead) -> Result<()> {
        let mut bytes = Vec::new();
        let most = 8 * self.limits.path as u64;
        entry.take(most).read_to_end(&mut bytes).map_err(|error| (self.told)(&error))?;
        if bytes.len() as u64 == most {
            return Err(self
                .refused("it has an extended header that is too long")
                .detail(format!("at most {most} bytes")));
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some(record) = record(rest) else {
                return Err(broken(self.name, "it has an extended header that is none"));
            };
            rest = record.after;
            match record.name {
                b"path" => ahead.path = Some(record.value.to_vec()),
                b"linkpath" => ahead.link = Some(record.value.to_vec()),
                b"size" => {
                    return Err(self
                        .refused("it has a file of more than 8 GiB")
                        .detail(format!("one file may have {} MiB", self.limits.file >> 20)));
                }
                name if name.starts_with(b"GNU.sparse") => {
                    return Err(self
                        .refused("it has a file with holes")
                        .detail("pack it anew without --sparse"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn refused(&self, what: impl AsRef<str>) -> Error {
        Error::refused(format!("{} is not read: {}", self.name, what.as_ref()))
    }
}

/// Folders at the top of a Linux system, in which links may be absolute.
const TOPS: [&str; 20] = [
    "sys", "proc", "etc", "usr", "lib", "lib32", "lib64", "bin", "sbin", "var", "run", "dev", "boot", "efi",
    "home", "root", "opt", "srv", "mnt", "media",
];

/// A record of an extended header, and what follows it.
struct Record<'a> {
    name: &'a [u8],
    value: &'a [u8],
    after: &'a [u8],
}

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let inside = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = inside.iter().position(|byte| *byte == b'=')?;
    Some(Record {
        name: inside.get(..equals)?,
        value: inside.get(equals + 1..)?,
        after: bytes.get(length..)?,
    })
}

/// Bytes of a path for a message: no control characters, not too many.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain: String = text.chars().take(120).map(|c| if c.is_control() { '?' } else { c }).collect();
    let more = if text.chars().nth(120).is_some() { "…" } else { "" };
    format!("{plain}{more}")
}

fn shown(bytes: &[u8]) -> String {
    format!("`{}`", plain(bytes))
}

fn too_much(name: &str, limits: &Limits) -> Error {
    Error::refused(format!("{name} is not read: it unpacks to too much")).detail(format!(
        "more than {} MiB; a capture of the largest servers has a third of that",
        limits.unpacked >> 20
    ))
}

fn broken(name: &str, what: &str) -> Error {
    Error::usage(format!("{name} cannot be unpacked: {what}")).hint("copy or download it again")
}

fn unreadable(name: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other => broken(name, &said(error)),
        _ => Error::usage(format!("cannot read {name}: {}", said(error))),
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
