//! Looks into an initramfs image: is our early script in it, when does it run, is the module there?
//!
//! The form is the kernel's (Documentation/driver-api/early-userspace/buffer-format.rst): cpio archives in the
//! "newc" form one after another, plain or compressed, with zeros between. It is read as a stream, because unpacked
//! images are large; nothing is written. An image that cannot be read is an error, never "not there".

use std::io::{self, BufRead, Read};

/// What was found in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Our early script.
    pub script: Option<Vec<u8>>,
    /// Names of the early scripts in the order they run, from `scripts/init-top/ORDER`.
    pub order: Vec<String>,
    /// True where the module vfio-pci is in it, or built into its kernel.
    pub vfio_pci: bool,
    /// Number of files.
    pub files: usize,
}

impl Image {
    /// True where an early script runs, and before another (or the other does not run at all).
    pub fn runs_before(&self, one: &str, other: &str) -> bool {
        let place = |name: &str| self.order.iter().position(|listed| listed == name);
        match (place(one), place(other)) {
            (Some(one), Some(other)) => one < other,
            (one, _) => one.is_some(),
        }
    }
}

/// Files that are looked into are small; what claims to be larger is not read.
const MAX_FILE: u64 = 4 << 20;

/// Reads an image.
pub fn read(bytes: &[u8]) -> io::Result<Image> {
    let mut image = Image::default();
    let mut rest = bytes;
    loop {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = rest.get(zeros..).unwrap_or_default();
        let magic = rest.get(..6).unwrap_or(rest);
        match magic {
            b"070701" | b"070702" => archive(&mut rest, &mut image)?,
            [0x1f, 0x8b, ..] => {
                compressed(io::BufReader::new(flate2::bufread::GzDecoder::new(&mut rest)), &mut image)?;
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest).map_err(io::Error::other)?;
                compressed(io::BufReader::new(decoder), &mut image)?;
            }
            // `lz4 -l`, the form that the kernel takes.
            [0x02, 0x21, 0x4c, 0x18, ..] => {
                compressed(io::BufReader::new(lz4_flex::frame::FrameDecoder::new(rest)), &mut image)?;
                break;
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => {
                let mut plain = Vec::new();
                lzma_rs::xz_decompress(&mut rest, &mut plain)
                    .map_err(|error| invalid(&format!("{error:?}")))?;
                compressed(plain.as_slice(), &mut image)?;
            }
            // What follows the last archive is not the kernel's either.
            _ => break,
        }
    }
    if image.files == 0 {
        return Err(invalid("there is no archive in it that can be read (gzip, zstd, xz and lz4 can)"));
    }
    Ok(image)
}

/// Archives inside a compressed stream: there may be several, as outside.
fn compressed(mut stream: impl BufRead, image: &mut Image) -> io::Result<()> {
    loop {
        let start = stream.fill_buf()?;
        match start.first() {
            None => return Ok(()),
            Some(0) => stream.consume(1),
            Some(_) => archive(&mut stream, image)?,
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Eight hex digits of a header.
fn field(header: &[u8; 110], index: usize) -> io::Result<u64> {
    let digits = header.get(6 + index * 8..14 + index * 8).unwrap_or_default();
    let text = std::str::from_utf8(digits).map_err(|_| invalid("an archive's header is no text"))?;
    u64::from_str_radix(text, 16).map_err(|_| invalid("an archive's header is no number"))
}

/// One archive, through its trailer.
fn archive(stream: &mut impl Read, image: &mut Image) -> io::Result<()> {
    loop {
        let mut header = [0_u8; 110];
        stream.read_exact(&mut header)?;
        if !header.starts_with(b"07070") {
            return Err(invalid("an archive breaks off: a header is not where it should be"));
        }
        let (size, name_size) = (field(&header, 6)?, field(&header, 11)?);
        if name_size == 0 || name_size > 4096 {
            return Err(invalid("an archive holds a name of no sensible length"));
        }
        let mut name = vec![0_u8; usize::try_from(name_size).unwrap_or(0)];
        stream.read_exact(&mut name)?;
        // Header and name together, and the file, each end at a multiple of four bytes.
        skip(stream, (4 - (110 + name_size) % 4) % 4)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        let name = String::from_utf8_lossy(&name);
        let name = name.strip_prefix("./").unwrap_or(&name);
        if name == "TRAILER!!!" {
            return skip(stream, size);
        }
        let mut content = Vec::new();
        if wanted(name) && size <= MAX_FILE {
            stream.take(size).read_to_end(&mut content)?;
        } else {
            skip(stream, size)?;
        }
        skip(stream, (4 - size % 4) % 4)?;
        note(image, name, content);
    }
}

fn skip(stream: &mut impl Read, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(count), &mut io::sink())?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

const SCRIPT: &str = "scripts/init-top/gpuferry";
const ORDER: &str = "scripts/init-top/ORDER";

fn wanted(name: &str) -> bool {
    name == SCRIPT || name == ORDER || name.ends_with("/modules.builtin")
}

fn note(image: &mut Image, name: &str, content: Vec<u8>) {
    image.files += 1;
    let file = name.rsplit('/').next().unwrap_or(name);
    if file == "vfio-pci.ko" || file.starts_with("vfio-pci.ko.") {
        image.vfio_pci = true;
    } else if name == SCRIPT {
        image.script = Some(content);
    } else if name == ORDER {
        // A line for each script: /scripts/init-top/NAME "$@"
        let text = String::from_utf8_lossy(&content).into_owned();
        let names = text.lines().filter_map(|line| line.strip_prefix("/scripts/init-top/"));
        image.order = names.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect();
    } else if name.ends_with("/modules.builtin") {
        image.vfio_pci |=
            String::from_utf8_lossy(&content).lines().any(|line| line.ends_with("/vfio-pci.ko"));
    }
}

/// An archive with these files, for tests and the simulated machine.
#[cfg(test)]
pub(crate) fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files.iter().copied().chain([("TRAILER!!!", &b""[..])]) {
        let mut fields = [0_usize; 13];
        (fields[6], fields[11]) = (content.len(), name.len() + 1);
        bytes.extend(b"070701");
        for field in fields {
            bytes.extend(format!("{field:08x}").bytes());
        }
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn early() -> Vec<u8> {
        pack(&[("kernel/x86/microcode/GenuineIntel.bin", b"123456789")])
    }

    fn main_archive() -> Vec<u8> {
        let order = "/scripts/init-top/gpuferry \"$@\"\n[ -e /conf/param.conf ] && . /conf/param.conf\n/scripts/init-top/udev \"$@\"\n";
        pack(&[
            ("scripts/init-top/gpuferry", b"#!/bin/sh\n"),
            ("scripts/init-top/ORDER", order.as_bytes()),
            ("usr/lib/modules/6.12.1/kernel/drivers/vfio/pci/vfio-pci.ko.xz", b"not looked into"),
        ])
    }

    #[track_caller]
    fn found(bytes: &[u8]) {
        let image = read(bytes).unwrap();
        assert_eq!(image.script.as_deref(), Some(&b"#!/bin/sh\n"[..]));
        assert_eq!(image.order, ["gpuferry", "udev"]);
        assert!(image.vfio_pci && image.runs_before("gpuferry", "udev"));
        assert_eq!(image.files, 4);
    }

    /// What a program of the build machine makes of it; `None` where it is not installed.
    fn through(program: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        let mut command = std::process::Command::new(program[0]);
        let pipes = (std::process::Stdio::piped(), std::process::Stdio::piped());
        let mut child = command.args(&program[1..]).stdin(pipes.0).stdout(pipes.1).spawn().ok()?;
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        Some(child.wait_with_output().unwrap().stdout)
    }

    #[test]
    fn plain_and_compressed_archives_are_read() {
        let mut plain = early();
        plain.extend([0; 64]);
        plain.extend(main_archive());
        found(&plain);
        let mut gzip = early();
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        encoder.write_all(&main_archive()).unwrap();
        encoder.finish().unwrap();
        found(&gzip);
        let mut zstd = early();
        zstd.extend(ruzstd::encoding::compress_to_vec(
            &*main_archive(),
            ruzstd::encoding::CompressionLevel::Fastest,
        ));
        found(&zstd);
        let mut xz = early();
        lzma_rs::xz_compress(&mut main_archive().as_slice(), &mut xz).unwrap();
        found(&xz);
    }

    #[test]
    fn what_the_distribution_compresses_is_read() {
        let tools: [&[&str]; 4] =
            [&["gzip", "-9"], &["zstd", "-q", "-9"], &["xz", "--check=crc32"], &["lz4", "-9", "-l"]];
        for tool in tools {
            let Some(packed) = through(tool, &main_archive()) else { continue };
            found(&[early(), packed].concat());
        }
    }

    #[test]
    fn damage_is_an_error_and_not_absence() {
        assert!(read(b"").is_err());
        assert!(read(&[0; 512]).is_err());
        assert!(read(b"#!/bin/sh\n").is_err());
        let whole = main_archive();
        for end in [7, 110, 120, 200, whole.len() - 20] {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        let mut huge = whole.clone();
        huge[6 + 11 * 8..14 + 11 * 8].copy_from_slice(b"ffffffff");
        assert!(read(&huge).is_err());
    }

    #[test]
    fn order_decides() {
        let image = |order: &[&str]| Image {
            order: order.iter().map(|name| (*name).to_owned()).collect(),
            ..Image::default()
        };
        assert!(!image(&["udev", "gpuferry"]).runs_before("gpuferry", "udev"));
        assert!(image(&["gpuferry"]).runs_before("gpuferry", "udev"));
        assert!(!image(&["udev"]).runs_before("gpuferry", "udev"));
    }
}
