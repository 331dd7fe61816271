//! Good archives, and every way in which one can be bad, made here.

use super::*;
use crate::{error::Status, machine::Root};
use std::io::Write;

/// An entry's header with its checksum; the path is written as it is, whatever it is.
fn header(path: &[u8], kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn entry(path: &str, kind: u8, bytes: &[u8], link: &str) -> Vec<u8> {
    let mut archive = header(path.as_bytes(), kind, bytes.len() as u64, link.as_bytes());
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().div_ceil(512) * 512, 0);
    archive
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn read(bytes: &[u8]) -> Result<Unpacked> {
    unpack("x.tar", bytes, &LIMITS)
}

fn tree(bytes: &[u8]) -> Tree {
    match read(bytes).unwrap() {
        Unpacked::Tree(tree) => tree,
        Unpacked::Bytes(_) => panic!("no archive"),
    }
}

/// Refused for safety, with what, which entry, and what would be right.
fn refused(bytes: &[u8], what: &str) {
    refused_within(bytes, what, &LIMITS);
}

fn refused_within(bytes: &[u8], what: &str, limits: &Limits) {
    let error = unpack("x.tar", bytes, limits).unwrap_err();
    assert_eq!(error.status, Status::Refused, "{error}");
    assert!(error.message.starts_with("x.tar is not read: ") && error.message.contains(what), "{error}");
    assert!(!error.message.chars().any(char::is_control), "{error:?}");
}

fn good() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(9);
    header.set_mode(0o644);
    let long = format!("./sys/devices/{}/class", "pci0000:00/".repeat(20));
    builder.append_data(&mut header, &long, &b"0x030000\n"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    let target = format!("../../../devices/{}", "pci0000:00/".repeat(20));
    builder.append_link(&mut header, "sys/bus/pci/devices/0000:00:01.0", &target).unwrap();
    builder.into_inner().unwrap()
}

fn looks_good(bytes: &[u8]) {
    let tree = tree(bytes);
    assert_eq!(tree.text(Path::new("/sys/bus/pci/devices/0000:00:01.0/class")).unwrap(), "0x030000");
}

#[test]
fn archives_by_their_first_bytes() {
    let plain = good();
    looks_good(&plain);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&plain).unwrap();
    looks_good(&gz.finish().unwrap());
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bz.write_all(&plain).unwrap();
    looks_good(&bz.finish().unwrap());
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    looks_good(&ruzstd::encoding::compress_to_vec(plain.as_slice(), level));
    let (one, two) = plain.split_at(700);
    let frames: Vec<u8> = [one, two]
        .iter()
        .flat_map(|part| {
            ruzstd::encoding::compress_to_vec(*part, ruzstd::encoding::CompressionLevel::Fastest)
        })
        .collect();
    looks_good(&frames);
    let mut xz = Vec::new();
    lzma_rs::xz_compress(&mut plain.as_slice(), &mut xz).unwrap();
    looks_good(&xz);
}

#[test]
fn what_is_no_archive_is_given_as_it_is() {
    let text = b"IOMMU Group 1:\n".repeat(100);
    for bytes in [&b""[..], b"x", b"BZh", &text] {
        match read(bytes).unwrap() {
            Unpacked::Bytes(read) => assert_eq!(read, bytes),
            Unpacked::Tree(_) => panic!("{bytes:?} is no archive"),
        }
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&text).unwrap();
    assert!(matches!(read(&gz.finish().unwrap()).unwrap(), Unpacked::Bytes(read) if read == text));
}

/// A record of an extended header; its length counts its own digits.
fn pax(name: &str, value: &str) -> String {
    let rest = format!(" {name}={value}\n");
    let digits = |length: usize| length.to_string().len();
    let length = (rest.len()..rest.len() + 9).find(|length| rest.len() + digits(*length) == *length).unwrap();
    format!("{length}{rest}")
}

#[test]
fn extended_headers_of_posix() {
    let path = format!("sys/{}", "a/".repeat(30) + "b");
    let record = pax("path", &path);
    let bytes = archive(&[entry("x", b'x', record.as_bytes(), ""), entry("short", b'0', b"1", "")]);
    assert_eq!(tree(&bytes).text(&Path::new("/").join(path)).unwrap(), "1");
    for bad in ["5 path", "99 path=x\n", "-1 a=b\n", "0 a=b\n", "18446744073709551615 path=x\n", "6 a=\n"] {
        let error = read(&archive(&[entry("x", b'x', bad.as_bytes(), ""), entry("s", b'0', b"", "")]));
        assert_eq!(error.unwrap_err().status, Status::Usage, "{bad}");
    }
    let ahead =
        |record: String| archive(&[entry("x", b'x', record.as_bytes(), ""), entry("s", b'0', b"", "")]);
    refused(&ahead(pax("size", "99999999999")), "8 GiB");
    refused(&ahead(pax("GNU.sparse.major", "1")), "holes");
    refused(&ahead(pax("path", "../../etc")), "leads out");
}

#[test]
fn paths_that_leave_it() {
    for path in ["../etc/passwd", "sys/../../etc/passwd", "sys/..", "..", "./../x"] {
        refused(&archive(&[entry(path, b'0', b"x", "")]), "leads out of it");
    }
    refused(&archive(&[entry("/etc/passwd", b'0', b"x", "")]), "is absolute");
    refused(&archive(&[entry("//etc", b'5', b"", "")]), "is absolute");
}

#[test]
fn links_that_leave_it() {
    for (path, target) in [
        ("sys/x", "../../etc/passwd"),
        ("x", ".."),
        ("sys/bus/x", "a/../../../../b"),
        ("sys/x", "/etc/passwd"),
        ("evil", "/etc"),
        ("host/sys/x", "/etc"),
    ] {
        refused(&archive(&[entry(path, b'2', b"", target)]), "leads out of it");
    }
    for (path, target) in
        [("etc/localtime", "/usr/share/zoneinfo/UTC"), ("sys/x", "../etc"), ("host/etc/x", "/x")]
    {
        let tree = tree(&archive(&[entry(path, b'2', b"", target)]));
        assert_eq!(tree.readlink(&Path::new("/").join(path)).unwrap(), Path::new(target));
    }
    refused(&archive(&[entry("sys/x", b'2', b"", "")]), "a target that Linux cannot have");
}

#[test]
fn a_file_through_a_link() {
    let bytes = archive(&[entry("sys/l", b'2', b"", "../etc"), entry("sys/l/passwd", b'0', b"x", "")]);
    refused(&bytes, "/sys/l is a link");
    refused(&archive(&[entry("a", b'0', b"x", ""), entry("a/b", b'0', b"x", "")]), "/a is a file");
}

#[test]
fn what_no_saved_tree_has() {
    for (kind, what) in [
        (b'1', "a hard link"),
        (b'3', "a device node"),
        (b'4', "a device node"),
        (b'6', "a pipe"),
        (b'S', "holes"),
        (b'Z', "of a kind"),
    ] {
        refused(&archive(&[entry("sys/x", kind, b"", "sys/y")]), what);
    }
}

#[test]
fn loops_of_links_end() {
    let bytes =
        archive(&[entry("a", b'2', b"", "b"), entry("b", b'2', b"", "a"), entry("sys/c", b'2', b"", ".")]);
    let tree = tree(&bytes);
    assert_eq!(tree.read(Path::new("/a")).unwrap_err().raw_os_error(), Some(40));
    assert!(crate::host::observe(&tree).functions.is_empty());
}

#[test]
fn names_depth_and_length() {
    let folder = b"a/".repeat(80);
    refused(&archive(&[entry("x", b'L', &folder, ""), entry("s", b'5', b"", "")]), "too deep");
    let name = b"n".repeat(300);
    refused(
        &archive(&[entry("x", b'L', &name, ""), entry("s", b'0', b"", "")]),
        "a name that Linux cannot have",
    );
    let path = b"abcdefg/".repeat(600);
    refused(&archive(&[entry("x", b'L', &path, ""), entry("s", b'0', b"", "")]), "too long");
    refused(&archive(&[entry("x", b'K', &path, ""), entry("s", b'2', b"", "")]), "too long");
    refused(&archive(&[entry("x", b'x', &b"a".repeat(1 << 20), ""), entry("s", b'0', b"", "")]), "too long");
}

#[test]
fn many_entries() {
    let one = entry("sys/x", b'0', b"", "");
    let limits = Limits { entries: 1000, ..LIMITS };
    refused_within(&one.repeat(1001), "too many entries", &limits);
    assert!(unpack("x", one.repeat(999).as_slice(), &limits).is_ok());
    // Headers that only announce count as well.
    refused_within(&entry("x", b'L', b"a", "").repeat(1001), "too many entries", &limits);
}

/// So many entries, one after the other, without ever being in memory.
struct Endless {
    one: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.one[self.at..];
        let count = rest.len().min(buffer.len()).min(usize::try_from(self.left).unwrap());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at = (self.at + count) % self.one.len();
        self.left -= count as u64;
        Ok(count)
    }
}

#[test]
fn millions_of_entries() {
    let endless = Endless { one: entry("sys/x", b'5', b"", ""), at: 0, left: 2_000_000 * 512 };
    let error = unpack("x.tar", endless, &LIMITS).unwrap_err();
    assert!(error.message.contains("too many entries"), "{error}");
}

#[test]
fn bombs() {
    // A file of 4 GiB that is one of zeros; a name of that size; and a stream of zeros.
    let limits = Limits { unpacked: 8 << 20, contents: 2 << 20, file: 1 << 20, ..LIMITS };
    let zeros = |start: Vec<u8>| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&start).unwrap();
        io::copy(&mut io::repeat(0).take(12 << 20), &mut gz).unwrap();
        gz.finish().unwrap()
    };
    refused_within(&zeros(header(b"sys/x", b'0', 1 << 32, b"")), "makes it too large", &limits);
    refused_within(&zeros(header(b"sys/x", b'L', 1 << 32, b"")), "too long", &limits);
    refused_within(
        &zeros(header(b"x", b'g', 1 << 32, b"")),
        "unpacks to too much",
        &Limits { file: 64 << 20, ..limits },
    );
    let many = entry("sys/x", b'0', &vec![1; 900 << 10], "").repeat(3);
    refused_within(&many, "makes it too large", &limits);
    let error = unpack("x.gz", zeros(b"text".to_vec()).as_slice(), &limits).unwrap_err();
    assert_eq!(error.status, Status::Refused, "{error}");
}

#[test]
fn bombs_of_every_kind() {
    let limits = Limits { unpacked: 4 << 20, contents: 2 << 20, file: 1 << 20, ..LIMITS };
    // A link may have a size; what follows it is passed over, and counted.
    let start = header(b"x", b'g', 1 << 32, b"");
    let zeros = || io::Read::chain(start.as_slice(), io::repeat(0).take(6 << 20));
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    io::copy(&mut zeros(), &mut bz).unwrap();
    refused_within(&bz.finish().unwrap(), "unpacks to too much", &limits);
    let zst = ruzstd::encoding::compress_to_vec(zeros(), ruzstd::encoding::CompressionLevel::Fastest);
    assert!(zst.len() < 64 << 10);
    refused_within(&zst, "unpacks to too much", &limits);
    let mut xz = Vec::new();
    lzma_rs::xz_compress(&mut io::BufReader::new(zeros()), &mut xz).unwrap();
    refused_within(&xz, "unpacks to too much", &limits);
}

/// An archive in an archive is a file like any other: nothing is unpacked twice.
#[test]
fn an_archive_inside_is_not_opened() {
    let inner = archive(&[entry("../../etc/passwd", b'0', b"x", "")]);
    let outer = archive(&[entry("sys/inner.tar", b'0', &inner, "")]);
    assert_eq!(tree(&outer).read(Path::new("/sys/inner.tar")).unwrap(), inner);
    let packed = |bytes: &[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    let once = packed(&outer);
    assert!(matches!(read(&packed(&once)).unwrap(), Unpacked::Bytes(bytes) if bytes == once));
}

#[test]
fn names_that_are_odd_or_there_twice() {
    let bytes =
        archive(&[entry("sys/a\nb\x1b[2J", b'0', b"1", ""), entry("sys/a\nb\x1b[2J/c", b'0', b"x", "")]);
    refused(&bytes, "is a file");
    let link = archive(&[entry("sys/a\nb", b'2', b"", "../../x\n")]);
    refused(&link, "leads out");
    let zero =
        archive(&[entry("x", b'x', pax("path", "sys/a\0b").as_bytes(), ""), entry("s", b'0', b"", "")]);
    refused(&zero, "a name that Linux cannot have");
    // tar's own rule: the last of several counts, as where an archive was appended to. A kind stays what it is.
    let twice = archive(&[entry("sys/a", b'0', b"1", ""), entry("sys/a", b'0', b"2", "")]);
    assert_eq!(tree(&twice).text(Path::new("/sys/a")).unwrap(), "2");
    for (first, second) in [(b'0', b'5'), (b'5', b'0'), (b'2', b'5')] {
        let link = if first == b'2' { "b" } else { "" };
        let bytes = archive(&[entry("sys/a", first, b"", link), entry("sys/a", second, b"", "")]);
        refused(&bytes, "/sys/a is a");
    }
}

/// GNU's form of a number: the first bit, then binary; a negative one has the second bit too.
#[test]
fn sizes_that_no_file_has() {
    for size in [[0xff; 12], [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
        let mut block = header(b"sys/x", b'0', 0, b"");
        block[124..136].copy_from_slice(&size);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = read(&[block, vec![0; 1024]].concat()).unwrap_err();
        assert!(error.message.contains("x.tar"), "{error}");
    }
}

#[test]
fn a_window_that_is_too_large() {
    // zstd: a window of 2 TiB less a bit (RFC 8878, 3.1.1.1.2), an empty last block.
    let error = read(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf7, 0x01, 0x00, 0x00]).unwrap_err();
    assert_eq!(error.status, Status::Usage, "{error}");
    // xz: a block that asks for a dictionary of 4 GiB (property 40).
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let mut xz = vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0];
    xz.extend(crc(&[0, 0]));
    let block = [2, 0, 0x21, 1, 40, 0, 0, 0];
    xz.extend(block);
    xz.extend(crc(&block));
    let error = read(&xz).unwrap_err();
    assert!(error.message.contains("memory"), "{error}");
}

#[test]
fn archives_that_break_off() {
    let whole = archive(&[entry("sys/a", b'0', &[7; 2000], ""), entry("sys/b", b'0', b"x", "")]);
    for length in [513, 700, 1024, 2400, 2600, 3000] {
        let error = read(&whole[..length]).unwrap_err();
        assert_eq!(error.status, Status::Usage, "{length}: {error}");
        assert!(error.message.starts_with("x.tar cannot be unpacked: "), "{length}: {error}");
    }
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zst = ruzstd::encoding::compress_to_vec(whole.as_slice(), level);
    for length in 4..zst.len() {
        assert!(read(&zst[..length]).is_err(), "{length}");
    }
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&whole).unwrap();
    let gz = gz.finish().unwrap();
    assert!(read(&gz[..gz.len() - 12]).is_err());
}

#[test]
fn any_byte_may_be_wrong() {
    let whole = archive(&[
        entry("sys/a", b'0', &[7; 20], ""),
        entry("sys/l", b'2', b"", "a"),
        entry("x", b'L', b"sys/long", ""),
    ]);
    for at in (0..whole.len()).step_by(3) {
        for value in [0, 0xff, b'9', b'/'] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            // Whatever it says, it says it.
            drop(read(&bytes));
        }
    }
}
