//! A capture reads back as the machine that it is of, but for what is personal.

use super::*;
use crate::error::Status;

fn machine() -> Tree {
    let mut tree = Tree::default();
    let mut put = |path: &str, entry: Entry| tree.put(Path::new(path), entry).unwrap();
    let text = |text: &str| Entry::File(text.as_bytes().to_vec());
    let device = "/sys/devices/pci0000:00/0000:00:02.0";
    put(&format!("{device}/modalias"), text("pci:v00008086d00003E98sv00001028sd00000869bc03sc00i00\n"));
    put(&format!("{device}/power_state"), text("D0\n"));
    put(&format!("{device}/driver_override"), text("(null)\n"));
    put(&format!("{device}/config"), Entry::File(vec![0; 256]));
    put(&format!("{device}/serial_number"), text("S3Z9NB0K\n"));
    put(&format!("{device}/iommu_group"), Entry::Link("../../../kernel/iommu_groups/1".into()));
    put("/sys/kernel/iommu_groups/1/type", text("DMA-FQ\n"));
    put("/sys/bus/pci/devices/0000:00:02.0", Entry::Link("../../../devices/pci0000:00/0000:00:02.0".into()));
    put("/sys/devices/pci0000:00/0000:00:1f.6/modalias", text("pci:v00008086d000015BCsv0sd0bc02sc00i00\n"));
    put("/sys/bus/pci/devices/0000:00:1f.6", Entry::Link("../../../devices/pci0000:00/0000:00:1f.6".into()));
    put(
        "/sys/class/net/enx525400010203",
        Entry::Link("../../devices/pci0000:00/0000:00:1f.6/net/enx525400010203".into()),
    );
    put("/sys/devices/pci0000:00/0000:00:1f.6/net/enx525400010203/operstate", text("up\n"));
    put(
        "/proc/net/route",
        text(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
        enx525400010203\t00000000\t0111A8C0\t0003\t0\t0\t0\t00000000\n\
        enx525400010203\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n",
        ),
    );
    put("/proc/net/fib_trie", text("Local:\n     |-- 192.168.17.4\n        /32 host LOCAL\n"));
    put("/proc/cmdline", text("root=UUID=3f2a9c1e-1111-2222-3333-444455556666 iommu=pt kepler.mode=1\n"));
    put("/proc/sys/kernel/hostname", text("kepler\n"));
    put("/etc/passwd", text("alice:x:1000:1000:Alice:/home/alice:/bin/sh\n"));
    put("/etc/machine-id", text("00112233445566778899aabbccddeeff\n"));
    put(
        "/proc/self/mountinfo",
        text("28 1 8:1 / / rw - ext4 /dev/sda1 rw\n29 28 8:1 / /home/alice rw - ext4 /dev/sda1 rw\n"),
    );
    put("/sys/block/sda", Entry::Link("../devices/pci0000:00/0000:00:02.0/x/sda".into()));
    put("/sys/devices/pci0000:00/0000:00:02.0/x/sda/dev", text("8:0\n"));
    put("/sys/devices/pci0000:00/0000:00:02.0/x/sda/sda1/dev", text("8:1\n"));
    put("/proc/interrupts", Entry::Closed(13));
    put("/dev/kmsg", text("6,1,2,-;Hostname set to <kepler>.\n6,2,3,-;usb 1-1: SerialNumber: S3Z9NB0K\n"));
    tree
}

pub(super) fn read_back(bytes: &[u8]) -> Tree {
    let Unpacked::Tree(mut tree) = unpack("x", bytes, &LIMITS).unwrap() else { panic!("no archive") };
    manifest::complete("x", &mut tree).unwrap().unwrap();
    tree
}

#[test]
fn a_capture_reads_back_as_its_machine() {
    let machine = machine();
    let made = make(&machine, false).unwrap();
    assert_eq!(made.host.functions.len(), 2);
    let tree = read_back(&made.bytes);
    let host = host::observe(&tree);
    let fields = differences(&json(&made.host).unwrap(), &json(&host).unwrap());
    assert_eq!(fields, made.manifest.fields);
    assert_eq!(fields, ["kernel.cmdline", "network[].addresses[]", "network[].name", "storage[].uses[].at"]);
    assert_eq!(made.host.functions, host.functions);
    assert_eq!(made.host.gpus, host.gpus);
    assert_eq!(made.host.unseen, host.unseen);
    assert!(host.unseen[0].starts_with("/proc/interrupts may not be read"));
    assert!(host.network.as_ref().unwrap()[0].default_route);
    assert!(host.kernel.cmdline.unwrap().ends_with(" iommu=pt host.mode=1"));
}

#[test]
fn nothing_personal_is_anywhere_in_it() {
    let made = make(&machine(), false).unwrap();
    let mut plain = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(made.bytes.as_slice()).unwrap();
    io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    let all = String::from_utf8_lossy(&plain).to_lowercase();
    for personal in
        ["kepler", "alice", "3f2a9c1e", "525400010203", "192.168.17", "11a8c0", "s3z9nb0k", "00112233445566"]
    {
        assert!(!all.contains(personal), "{personal} is in it");
    }
    assert!(all.contains("pci:v00008086d00003e98"));
    let words: Vec<&str> = made.manifest.left_out.iter().map(|out| out.what.as_str()).collect();
    for word in [
        "MAC addresses",
        "UUIDs and machine ids",
        "IP addresses",
        "host name",
        "user names",
        "serial numbers",
    ] {
        assert!(words.contains(&word), "{word} in {words:?}");
    }
    assert!(made.manifest.went_in.iter().any(|part| part.path == "/sys/devices" && part.files > 3));
    assert_eq!(make(&machine(), false).unwrap().bytes, made.bytes, "the same machine gives the same capture");
}

#[test]
fn all_of_it_where_that_is_asked_for() {
    let machine = machine();
    let made = make(&machine, true).unwrap();
    assert!(
        made.manifest.fields.is_empty() && made.manifest.left_out.is_empty() && made.manifest.personal_data
    );
    assert_eq!(host::observe(&read_back(&made.bytes)), made.host);
}

#[test]
fn a_capture_of_a_capture_is_the_same_machine() {
    let first = make(&machine(), false).unwrap();
    let tree = read_back(&first.bytes);
    let second = make(&tree, false).unwrap();
    assert_eq!(second.host, host::observe(&tree));
    assert_eq!(second.host.functions, first.host.functions);
}

#[test]
fn an_unpacked_capture_reads_like_the_archive() {
    let made = make(&machine(), false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let Unpacked::Tree(_) = unpack("x", made.bytes.as_slice(), &LIMITS).unwrap() else {
        panic!("no archive")
    };
    let decoder = ruzstd::decoding::StreamingDecoder::new(made.bytes.as_slice()).unwrap();
    tar::Archive::new(decoder).unpack(folder.path()).unwrap();
    let root = super::super::source::Sources::open(&[folder.path().to_owned()]).unwrap().root();
    assert_eq!(host::observe(&root), host::observe(&read_back(&made.bytes)));
}

#[test]
fn this_machine_reads_back() {
    let root = crate::machine::live::Live::open(Path::new("/")).unwrap();
    let made = make(&root, false).unwrap();
    let host = host::observe(&read_back(&made.bytes));
    assert_eq!(differences(&json(&made.host).unwrap(), &json(&host).unwrap()), made.manifest.fields);
    assert_eq!(made.host.functions.len(), host.functions.len());
}

#[test]
fn links_that_an_archive_may_hold() {
    assert!(stays("/sys/bus/x", Path::new("../devices/a")) && stays("/a", Path::new("b")));
    assert!(
        !stays("/a", Path::new("../b")) && !stays("/a/b", Path::new("/c")) && !stays("/a", Path::new(""))
    );
    let error = unpack("x", &b"\x28\xb5\x2f\xfd"[..], &LIMITS).unwrap_err();
    assert_eq!(error.status, Status::Usage);
}
