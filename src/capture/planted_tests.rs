//! Secrets are planted wherever a machine may have some, and looked for in every byte of its capture. Each of them is
//! in the capture that leaves personal data in: what is never read proves nothing.

use super::tests::read_back;
use super::*;

const UUID: &str = "3f2a9c1e-1111-2222-3333-4444aabbccdd";
const CARD: &str = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0";
const NIC: &str = "/sys/devices/pci0000:00/0000:00:1f.6";

/// The words of a machine that boots over a network, as its loader wrote them.
fn words() -> String {
    format!(
        "BOOT_IMAGE=/vmlinuz root=UUID={UUID} ro iommu=pt \
         ip=192.168.17.4:192.168.17.1:192.168.17.1:255.255.255.0:brunnenhof:eth0:off \
         nfsroot=nas.winkelgasse.example:/srv/x BOOTIF=01-52-54-00-ab-cd-ef ifname=lan0:52:54:00:12:34:f0 \
         systemd.hostname=hinterstube netroot=iscsi:wanda:geheim/77,a@10.77.1.2::3260::iqn.2009-06.example:ziel \
         rd.iscsi.initiator=iqn.2004-10.com.example:01:abcdef123456 inst.ks=http://verteiler.example/ks.cfg \
         resume=PARTUUID=deadbeef-02 rd.luks.uuid=luks-{UUID}"
    )
}

/// Every secret as it would stand in the capture; bytes where it is no text.
const SECRETS: &[&[u8]] = &[
    b"3f2a9c1e",
    b"4444aabbccdd",
    b"deadbeef-02",
    b"brunnenhof",
    b"winkelgasse",
    b"hinterstube",
    b"geheim/77",
    b"77,a@",
    b"abcdef123456",
    b"verteiler",
    b"52-54-00-ab-cd-ef",
    b"ab-cd-ef",
    b"52:54:00:12:34:f0",
    b"12:34:f0",
    b"192.168.17",
    b"10.77.1.2",
    b"0111a8c0",
    b"20010db8",
    b"2001:db8",
    b"wanda",
    b"lotte",
    b"werkbank",
    b"unbekannt",
    b"steuer 2023",
    b"brief an oma",
    b"krankenakte",
    b"tagebuch",
    b"kundin mueller",
    b"bilder",
    b"urlaub",
    b"s3z9nb0k",
    b"0010dc00a183eb31",
    b"52:54:00:ab:cd:11",
    b"525400abcd11",
    b"geheimes vorhaben",
    b"hunter,2 x",
    b"ht3h901234",
    b"vx-81-45",
    b"winkeladvokat",
    b"\x5a\xa5\x5b\xb5\x5c\xc5\x5d\xd5",
    b"\x6a\xa6\x6b\xb6",
    b"1eb1f2f3",
];

fn machine() -> Tree {
    let mut tree = Tree::default();
    let mut put = |path: &str, entry: Entry| tree.put(Path::new(path), entry).unwrap();
    let text = |text: &str| Entry::File(text.as_bytes().to_vec());
    let link = |target: &str| Entry::Link(target.into());

    let mut config = vec![0; 4096];
    config[..4].copy_from_slice(&[0xde, 0x10, 0x04, 0x22]);
    config[6] = 0x10;
    config[0x34] = 0x40;
    config[0x40] = 0x10;
    config[0x100..0x104].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
    config[0x104..0x10c].copy_from_slice(b"\x5a\xa5\x5b\xb5\x5c\xc5\x5d\xd5");
    put(&format!("{CARD}/config"), Entry::File(config));
    put(&format!("{CARD}/modalias"), text("pci:v000010DEd00002204sv00001458sd00004001bc03sc00i00\n"));
    put(&format!("{CARD}/power_state"), text("D0\n"));
    put(&format!("{CARD}/uevent"), text("DRIVER=nouveau\n"));
    put("/sys/bus/pci/devices/0000:01:00.0", link("../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0"));
    put("/sys/dev/char/226:0", link("../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0"));
    put(&format!("{CARD}/drm/card0/uevent"), text("MAJOR=226\nMINOR=0\nDEVNAME=dri/card0\n"));
    put(&format!("{CARD}/drm/card0/dev"), text("226:0\n"));
    put("/sys/class/drm/card0", link("../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0"));
    put(
        "/sys/class/drm/card0-DP-1",
        link("../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card0/card0-DP-1"),
    );
    put(&format!("{CARD}/drm/card0/card0-DP-1/status"), text("connected\n"));
    let mut edid = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x10, 0xac, 1, 2];
    edid.extend(b"\x6a\xa6\x6b\xb6");
    edid.resize(256, 0);
    edid[54..58].copy_from_slice(&[0, 0, 0, 0xff]);
    edid[59..69].copy_from_slice(b"HT3H901234");
    edid[126] = 1;
    edid[140..150].copy_from_slice(b"HT3H901234");
    put(&format!("{CARD}/drm/card0/card0-DP-1/edid"), Entry::File(edid));

    put(&format!("{NIC}/modalias"), text("pci:v00008086d000015BCsv0sd0bc02sc00i00\n"));
    put("/sys/bus/pci/devices/0000:00:1f.6", link("../../../devices/pci0000:00/0000:00:1f.6"));
    put("/sys/class/net/enx525400abcd11", link("../../devices/pci0000:00/0000:00:1f.6/net/enx525400abcd11"));
    put(&format!("{NIC}/net/enx525400abcd11/operstate"), text("up\n"));
    put(&format!("{NIC}/net/enx525400abcd11/address"), text("52:54:00:ab:cd:11\n"));
    let route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                 enx525400abcd11\t00000000\t0111A8C0\t0003\t0\t0\t0\t00000000\n\
                 enx525400abcd11\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
    put("/proc/net/route", text(route));
    put("/proc/net/fib_trie", text("Local:\n     |-- 192.168.17.4\n        /32 host LOCAL\n"));
    put("/proc/net/if_inet6", text("20010db8000000000000000000000001 02 40 00 80 enx525400abcd11\n"));

    put("/proc/cmdline", text(&words()));
    put("/proc/sys/kernel/hostname", text("winkeladvokat\n"));
    put("/etc/machine-id", text("00112233445566778899aabb1eb1f2f3\n"));
    put("/etc/passwd", text("root:x:0:0::/:/bin/sh\nwanda:x:1000:1000:Wanda W.:/home/wanda:/bin/sh\n"));
    let session = "UID=50001\nUSER=lotte\nACTIVE=1\nTYPE=tty\nCLASS=user\nREMOTE=1\nREMOTE_HOST=werkbank.example\nSERVICE=sshd\n";
    put("/run/systemd/sessions/7", text(session));
    put("/etc/default/grub", text(&format!("GRUB_CMDLINE_LINUX=\"{}\"\n", words())));

    put("/proc/1/status", text("Name:\tsystemd\nUid:\t0\t0\t0\t0\n"));
    put("/proc/1/comm", text("systemd\n"));
    put("/proc/1/fd/0", link("/dev/null"));
    for (process, uid, name) in [(812, 1000, "viewer"), (813, 50001, "lotte-tool")] {
        let at = format!("/proc/{process}");
        put(&format!("{at}/status"), text(&format!("Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")));
        put(&format!("{at}/comm"), text(&format!("{name}\n")));
        put(&format!("{at}/cgroup"), text(&format!("0::/user.slice/user-{uid}.slice/session-7.scope\n")));
        put(&format!("{at}/fd/3"), link("/home/wanda/Steuer 2023/brief an oma.odt"));
        put(&format!("{at}/fd/4"), link("/dev/dri/card0"));
        put(&format!("{at}/fd/5"), link("/mnt/daten/Krankenakte.pdf"));
        put(&format!("{at}/fd/6"), link("/home/unbekannt/x (deleted)"));
        put(&format!("{at}/fd/7"), link("/dev/shm/Krankenakte"));
        let maps = "7f00-7f01 r--p 00000000 08:01 9      /mnt/daten/Tagebuch.db\n\
                    7f02-7f03 rw-s 00000000 00:05 9      /dev/dri/card0\n\
                    7f04-7f05 rw-s 00000000 00:05 9      /dev/shm/Tagebuch\n";
        put(&format!("{at}/maps"), text(maps));
    }
    let mounts = "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n29 28 8:1 / /home/wanda/Bilder\\040Kinder rw - ext4 /dev/sda1 rw\n\
                  30 28 8:1 / /media/wanda/Urlaub rw - ext4 /dev/sda1 rw\n";
    put("/proc/self/mountinfo", text(mounts));
    put("/sys/block/sda", link("../devices/pci0000:00/0000:00:1f.6/x/sda"));
    put(&format!("{NIC}/x/sda/dev"), text("8:0\n"));
    put(&format!("{NIC}/x/sda/sda1/dev"), text("8:1\n"));

    let log = format!(
        "6,1,1,-;Command line: {}\n6,2,2,-;Hostname set to <winkeladvokat>.\n6,3,3,-;usb 1-1: SerialNumber: S3Z9NB0K\n\
         6,4,4,-;firewire_core 0000:03:00.0: created device fw0: GUID 0010dc00a183eb31, S400\n\
         6,5,5,-;audit: apparmor=\"DENIED\" operation=\"open\" name=\"/home/wanda/VMs/kundin mueller.img\" pid=7\n\
         6,6,6,-;nfs: server nas at 2001:db8:1:2::7 not responding\n",
        words()
    );
    put("/dev/kmsg", text(&log));
    let domain = format!(
        "<domain type='kvm'><name>win10</name><uuid>{UUID}</uuid><description>ein geheimes vorhaben</description>\
         <sysinfo type='smbios'><system><entry name='serial'>VX-81-45</entry></system></sysinfo><devices>\
         <disk type='file'><source file='/home/wanda/VMs/kundin mueller.img'/></disk>\
         <disk type='network'><source protocol='nbd'><host name='nas.winkelgasse.example'/></source></disk>\
         <interface type='network'><mac address='52:54:00:ab:cd:11'/></interface>\
         <graphics type='vnc' passwd='hunter,2 x'/><hostdev mode='subsystem' type='pci' managed='yes'><source>\
         <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source></hostdev></devices></domain>\n"
    );
    put("/etc/libvirt/qemu/win10.xml", text(&domain));
    tree
}

/// Every byte, once as it is and once in small letters.
fn plain(made: &Made) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(made.bytes.as_slice()).unwrap();
    io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    [plain.clone(), plain.to_ascii_lowercase()].concat()
}

fn is_in(secret: &[u8], bytes: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

#[test]
fn no_secret_is_in_any_byte() {
    let machine = machine();
    let (with, without) = (make(&machine, true).unwrap(), make(&machine, false).unwrap());
    let (all, left) = (plain(&with), plain(&without));
    let shown = |secret: &[u8]| String::from_utf8_lossy(secret).into_owned();
    let unread: Vec<_> =
        SECRETS.iter().filter(|secret| !is_in(secret, &all)).map(|secret| shown(secret)).collect();
    assert!(unread.is_empty(), "never read, so nothing is shown by it: {unread:?}");
    let kept: Vec<_> =
        SECRETS.iter().filter(|secret| is_in(secret, &left)).map(|secret| shown(secret)).collect();
    assert!(kept.is_empty(), "in the capture: {kept:?}");
    assert!(without.manifest.left_out.iter().any(|left| left.what == "names of people's files"));
}

#[test]
fn what_is_left_tells_the_same() {
    let made = make(&machine(), false).unwrap();
    let tree = read_back(&made.bytes);
    let host = host::observe(&tree);
    // The root filesystem is still the one that the kernel was told.
    let line = host.kernel.cmdline.clone().unwrap();
    let uuid = line.split_whitespace().find_map(|word| word.strip_prefix("root=UUID=")).unwrap().to_owned();
    assert_eq!(uuid.len(), UUID.len());
    assert!(tree.text(Path::new("/etc/default/grub")).unwrap().contains(&format!("root=UUID={uuid}")));
    let domain = tree.text(Path::new("/etc/libvirt/qemu/win10.xml")).unwrap();
    assert!(domain.contains(&format!("<uuid>{uuid}</uuid>")) && domain.contains(".img'/>"), "{domain}");
    assert!(line.contains(&format!("rd.luks.uuid=luks-{uuid}")) && line.contains(" iommu=pt "), "{line}");
    let ip = line.split_whitespace().find_map(|word| word.strip_prefix("ip=")).unwrap();
    let fields: Vec<&str> = ip.split(':').collect();
    assert_eq!((fields.len(), fields[3], fields[5], fields[6]), (7, "255.255.255.0", "eth0", "off"), "{ip}");
    assert!(fields[0].starts_with("192.168.") && fields[0] != "192.168.17.4", "{ip}");
    // Who holds the card is told as before, by other names.
    let own = |host: &Host| {
        host.functions.iter().find(|one| one.address.to_string() == "0000:01:00.0").cloned().unwrap()
    };
    let (before, after) = (own(&made.host).holders.unwrap(), own(&host).holders.unwrap());
    let pids = |holders: &[host::Holder]| {
        holders.iter().map(|holder| (holder.pid, holder.nodes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(pids(&before), pids(&after));
    assert_eq!((after.len(), after[0].process.as_str(), after[0].user.as_str()), (2, "viewer", "user1"));
    assert!(after[0].session.as_ref().is_some_and(|session| session.id == "7"));
}
