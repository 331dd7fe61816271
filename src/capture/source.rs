//! What `--host` names, by what is in it: a saved tree, an archive, files of single cards, text, or a folder of these.
//!
//! The files are the caller's own, named on the command line: they are opened as any program opens them, through
//! links and pipes, and what is inside is not trusted.

use super::{
    archive::{LIMITS, Limits, Unpacked, unpack},
    cards::cards,
    manifest,
    union::Union,
};
use crate::{
    error::{Error, Result, said},
    machine::{
        FileKind, Root, Stat,
        live::Live,
        tree::{Entry, Tree},
    },
    paste::Text,
};
use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// What the named things hold.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "doors have no look")]
pub struct Sources {
    /// Trees of machines, the one that counts most first.
    pub trees: Vec<Box<dyn Root>>,
    /// Texts, in their order.
    pub texts: Vec<Text>,
    /// What was passed over, in sentences.
    pub notes: Vec<String>,
}

/// Levels of folders in which a saved `sys` is looked for.
const LEVELS: usize = 2;

/// Texts taken from one folder or archive.
const MAX_TEXTS: usize = 256;

impl Sources {
    /// Opens everything that was named.
    pub fn open(names: &[PathBuf]) -> Result<Self> {
        let mut sources = Self::default();
        let mut asked = false;
        for name in names {
            if name == Path::new("-") {
                if std::mem::replace(&mut asked, true) {
                    return Err(Error::usage("standard input can be read once: `--host -` is given twice"));
                }
                sources.input("standard input", io::stdin().lock(), true)?;
                continue;
            }
            let open = |error: io::Error| {
                Error::usage(format!("cannot open {}: {}", name.display(), said(&error))).hint(
                    "--host takes a capture, a folder or archive that holds a saved sys/, text, or - for standard input",
                )
            };
            let metadata = std::fs::metadata(name).map_err(open)?;
            if metadata.is_dir() {
                sources.folder(name)?;
            } else {
                sources.input(&name.display().to_string(), File::open(name).map_err(open)?, true)?;
            }
        }
        Ok(sources)
    }

    /// All trees as one door; behind them the kernel's log, where a text is one.
    pub fn root(self) -> Union {
        let mut trees = self.trees;
        if let Some(log) = kernel_log(&self.texts) {
            let mut tree = Tree::default();
            // The first thing in a tree has nothing to clash with.
            let _ = tree.put(Path::new("/var/log/dmesg"), Entry::File(log.into_bytes()));
            trees.push(Box::new(tree));
        }
        Union(trees)
    }

    fn folder(&mut self, folder: &Path) -> Result<()> {
        let open = |path: &Path| {
            Live::open(path)
                .map_err(|error| Error::usage(format!("cannot open {}: {}", path.display(), said(&error))))
        };
        let root = open(folder)?;
        match find(&folder.display().to_string(), &root)? {
            Some(Found::Tree(at)) if at == Path::new("/") => {
                if root.exists(&Path::new("/").join(manifest::NAME)) {
                    // A capture that was unpacked: what has no place in a folder is told by its manifest.
                    let mut tree = Tree::default();
                    gather(&root, Path::new("/"), &mut tree, &mut LIMITS.clone())?;
                    return self.archive(&folder.display().to_string(), tree);
                }
                self.trees.push(Box::new(root));
                return Ok(());
            }
            Some(Found::Tree(at)) => {
                self.trees.push(Box::new(open(&folder.join(at.strip_prefix("/").unwrap_or(&at)))?));
            }
            Some(Found::Sys(at)) => self.trees.push(Box::new(Sys { root: Box::new(root), at })),
            Some(Found::Cards(tree)) => self.trees.push(Box::new(tree)),
            None => {}
        }
        let root = open(folder)?;
        let before = (self.trees.len(), self.texts.len());
        for name in root.list(Path::new("/")).unwrap_or_default().into_iter().take(MAX_TEXTS) {
            let is_file =
                root.stat(&Path::new("/").join(&name)).is_ok_and(|stat| stat.kind == FileKind::File);
            if !is_file || name.to_string_lossy().starts_with('.') {
                continue;
            }
            let path = folder.join(&name);
            let shown = path.display().to_string();
            match File::open(&path) {
                Ok(file) => self.input(&shown, file, false)?,
                Err(error) => self.notes.push(format!("{shown} may not be read: {}", said(&error))),
            }
        }
        if self.trees.is_empty() && before == (self.trees.len(), self.texts.len()) {
            // Nothing at all: the folder itself, which then says so.
            self.trees.push(Box::new(root));
        }
        Ok(())
    }

    /// A file, or standard input. What is neither archive nor text is an error where it was named itself.
    fn input(&mut self, name: &str, input: impl io::Read, named: bool) -> Result<()> {
        match unpack(name, input, &LIMITS)? {
            Unpacked::Tree(tree) => self.archive(name, tree),
            Unpacked::Bytes(bytes) => match text(&bytes) {
                Some(text) => {
                    self.texts.push(Text { name: name.to_owned(), text });
                    Ok(())
                }
                None if named => Err(Error::usage(format!("{name} is neither an archive nor text"))
                    .detail("archives are tar, plain or compressed by gzip, bzip2, xz or zstd")),
                None => {
                    self.notes.push(format!("{name} was passed over: neither an archive nor text"));
                    Ok(())
                }
            },
        }
    }

    fn archive(&mut self, name: &str, mut tree: Tree) -> Result<()> {
        manifest::complete(name, &mut tree)?;
        match find(name, &tree)? {
            Some(Found::Tree(at)) => {
                let tree = tree.rooted_at(&at).map_err(|error| {
                    Error::usage(format!("cannot read {} in {name}: {}", at.display(), said(&error)))
                })?;
                self.trees.push(Box::new(tree));
            }
            Some(Found::Sys(at)) => self.trees.push(Box::new(Sys { root: Box::new(tree), at })),
            Some(Found::Cards(tree)) => self.trees.push(Box::new(tree)),
            None => {
                let before = self.texts.len();
                self.files(name, &tree, Path::new("/"), 0);
                if self.texts.len() == before {
                    return Err(Error::usage(format!("{name} holds no saved sys/ and no text"))
                        .detail("made of a machine: gpuferry capture -o host.tar.zst"));
                }
            }
        }
        Ok(())
    }

    /// Texts in an archive.
    fn files(&mut self, name: &str, tree: &Tree, folder: &Path, depth: usize) {
        for entry in tree.list(folder).unwrap_or_default() {
            let path = folder.join(entry);
            let kind = tree.stat(&path).map(|stat| stat.kind);
            if kind.as_ref().is_ok_and(|kind| *kind == FileKind::Folder) && depth < LEVELS {
                self.files(name, tree, &path, depth + 1);
            }
            let text = tree.read(&path).ok().and_then(|bytes| text(&bytes));
            if let Some(text) = text.filter(|_| self.texts.len() < MAX_TEXTS) {
                self.texts.push(Text { name: format!("{name}{}", path.display()), text });
            }
        }
    }
}

/// A folder in memory, within limits.
fn gather(root: &dyn Root, folder: &Path, tree: &mut Tree, left: &mut Limits) -> Result<()> {
    let failed = |path: &Path, error: &io::Error| {
        Error::usage(format!("cannot read {}: {}", path.display(), said(error)))
    };
    for name in root.list(folder).map_err(|error| failed(folder, &error))? {
        let path = folder.join(name);
        let kind = root.stat(&path).map_err(|error| failed(&path, &error))?.kind;
        let entry = match kind {
            FileKind::File => {
                root.read_start(&path, usize::try_from(left.file).unwrap_or(usize::MAX)).map(Entry::File)
            }
            FileKind::Link => root.readlink(&path).map(Entry::Link),
            FileKind::Folder | FileKind::Other => Ok(Entry::Folder),
        };
        let entry = entry.map_err(|error| failed(&path, &error))?;
        let size = if let Entry::File(bytes) = &entry { bytes.len() as u64 } else { 0 };
        let depth = path.components().count();
        left.entries = left.entries.saturating_sub(1);
        left.contents = left.contents.saturating_sub(size);
        if left.entries == 0 || left.contents == 0 || depth > left.depth {
            return Err(Error::refused(format!("{} holds too much for a capture", folder.display())));
        }
        // Each path of a folder is there once: nothing clashes.
        let _ = tree.put(&path, entry);
        if kind == FileKind::Folder {
            gather(root, &path, tree, left)?;
        }
    }
    Ok(())
}

/// What a folder or archive holds of a machine.
enum Found {
    /// A saved root: a folder with `sys` or `proc` in it.
    Tree(PathBuf),
    /// A saved /sys without a folder `sys` around it.
    Sys(PathBuf),
    /// Single cards.
    Cards(Tree),
}

fn find(name: &str, root: &dyn Root) -> Result<Option<Found>> {
    let mut level = vec![PathBuf::from("/")];
    for _ in 0..=LEVELS {
        let roots: Vec<&PathBuf> = level.iter().filter(|at| is_root(root, at)).collect();
        match roots.as_slice() {
            [] => {}
            [one] => return Ok(Some(Found::Tree((*one).clone()))),
            [first, second, ..] => {
                return Err(Error::usage(format!("{name} holds several machines"))
                    .detail(format!("{} and {}", first.display(), second.display()))
                    .hint("name one of them: --host FOLDER"));
            }
        }
        if let Some(at) = level.iter().find(|at| root.exists(&at.join("bus/pci/devices"))) {
            return Ok(Some(Found::Sys(at.clone())));
        }
        if let Some(tree) = level.iter().find_map(|at| cards(root, at)) {
            return Ok(Some(Found::Cards(tree)));
        }
        level = level.iter().flat_map(|at| folders(root, at)).take(MAX_TEXTS).collect();
    }
    Ok(None)
}

fn is_root(root: &dyn Root, at: &Path) -> bool {
    let is_folder = |name: &str| root.stat(&at.join(name)).is_ok_and(|stat| stat.kind == FileKind::Folder);
    is_folder("sys") || is_folder("proc")
}

fn folders(root: &dyn Root, at: &Path) -> Vec<PathBuf> {
    let names = root.list(at).unwrap_or_default();
    let paths =
        names.into_iter().filter(|name| !name.to_string_lossy().starts_with('.')).map(|name| at.join(name));
    paths.filter(|path| root.stat(path).is_ok_and(|stat| stat.kind == FileKind::Folder)).collect()
}

/// A folder of a tree as its /sys, and nothing else.
struct Sys {
    root: Box<dyn Root>,
    at: PathBuf,
}

impl Sys {
    fn below(&self, path: &Path) -> io::Result<PathBuf> {
        let below = path.strip_prefix("/sys").map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.at.join(below))
    }
}

impl Root for Sys {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.root.read(&self.below(path)?)
    }
    fn read_start(&self, path: &Path, length: usize) -> io::Result<Vec<u8>> {
        self.root.read_start(&self.below(path)?, length)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.root.list(&self.below(path)?)
    }
    fn readlink(&self, path: &Path) -> io::Result<PathBuf> {
        self.root.readlink(&self.below(path)?)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.root.stat(&self.below(path)?)
    }
}

/// Bytes as text: UTF-8, or UTF-16 with its mark, as some editors save it. Anything with a zero byte is no text.
fn text(bytes: &[u8]) -> Option<String> {
    let wide = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            rest.chunks_exact(2).filter_map(|pair| Some(unit(pair.try_into().ok()?))).collect();
        Some(String::from_utf16_lossy(&units))
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => {
            (!rest.contains(&0)).then(|| String::from_utf8_lossy(rest).into_owned())
        }
    }
}

/// The texts that are the kernel's log, one after the other: most of their lines begin with a time in brackets, or
/// they begin as every log of a boot does.
fn kernel_log(texts: &[Text]) -> Option<String> {
    let timed = |line: &str| {
        let inside = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        inside.is_some_and(|(time, _)| time.trim().parse::<f64>().is_ok())
    };
    let is_log = |saved: &&Text| {
        let lines = || saved.text.lines().filter(|line| !line.trim().is_empty());
        lines().take(400).filter(|line| timed(line)).count() * 2 > lines().take(400).count()
            || lines().take(3).any(|line| line.contains("Linux version "))
    };
    let logs: Vec<&str> = texts.iter().filter(is_log).map(|saved| saved.text.as_str()).collect();
    (!logs.is_empty()).then(|| logs.join("\n"))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
