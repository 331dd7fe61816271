use super::*;

/// A small generator (xorshift), so that what is tried is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Writes bytes, little end first.
fn put(space: &mut [u8], at: usize, value: u64, bytes: usize) {
    space[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
}

/// A root port: power management at 40, express at 60, MSI at 90; error reporting at 100, ACS at 148.
fn root_port() -> Vec<u8> {
    let mut space = vec![0; 4096];
    put(&mut space, 0x00, 0x460d_8086, 4);
    put(&mut space, 0x06, 0x10, 2);
    put(&mut space, 0x08, 0x0604_0002, 4);
    put(&mut space, 0x0e, 0x81, 1);
    put(&mut space, 0x18, 0x00_04_01_00, 4);
    put(&mut space, 0x34, 0x40, 1);
    put(&mut space, 0x40, 0x6001, 2);
    put(&mut space, 0x44, 0x03, 2);
    put(&mut space, 0x60, 0x9010, 2);
    put(&mut space, 0x62, 0x0142, 2); // version 2, root port, slot
    put(&mut space, 0x6c, 0x0045_0104, 4); // at most 16 GT/s x16
    put(&mut space, 0x72, 0x0083, 2); // now 8 GT/s x8
    put(&mut space, 0x74, 3 << 19, 4);
    put(&mut space, 0x8c, 0x1e, 4); // 2.5 to 16 GT/s
    put(&mut space, 0x90, 0x0005, 2);
    put(&mut space, 0x92, 0x0005, 2); // 4 vectors, on
    put(&mut space, 0x100, 0x1481_0001, 4);
    put(&mut space, 0x148, 0x0001_000d, 4);
    put(&mut space, 0x14c, 0x000f, 2);
    put(&mut space, 0x14e, 0x001d, 2);
    space
}

#[test]
fn a_root_port() {
    let config = Config::parse(&root_port());
    assert_eq!((config.bytes, config.answers, config.header_type), (4096, true, Some(1)));
    assert_eq!(config.multifunction, Some(true));
    assert_eq!(config.buses, Some(Buses { primary: 0, secondary: 1, subordinate: 4 }));
    let names =
        |list: &Option<Vec<Capability>>| list.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&config.capabilities), ["power-management@40", "express@60", "msi@90"]);
    assert_eq!(names(&config.extended), ["error-reporting@100", "acs@148"]);
    let express = config.express.as_ref().unwrap();
    assert_eq!((express.kind, express.slot), (PortKind::RootPort, Some(3)));
    let link = express.link.unwrap();
    assert_eq!((link.speed_gts, link.width), (Some(8.0), Some(8)));
    assert_eq!((link.max_speed_gts, link.max_width), (Some(16.0), Some(16)));
    assert_eq!(config.power_state, Some(3));
    assert_eq!(config.msi, Some(Vectors { count: 4, on: true }));
    assert_eq!((config.msi_x, config.flr), (None, Some(false)));
    assert_eq!(config.acs, Acs::Present { can: Controls(0x0f), on: Controls(0x1d) });
    assert_eq!(config.acs.setting(), Setting::On);
}

#[test]
fn what_was_not_told_is_unknown_and_not_missing() {
    let space = root_port();
    let head = Config::parse(&space[..64]);
    assert_eq!((head.header_type, &head.capabilities, head.flr), (Some(1), &None, None));
    assert_eq!((head.acs, head.acs.setting()), (Acs::Unknown, Setting::Unknown));
    let conventional = Config::parse(&space[..256]);
    assert_eq!(conventional.capabilities.as_ref().unwrap().len(), 3);
    assert_eq!((&conventional.extended, conventional.acs), (&None, Acs::Unknown));
    let mut without = space.clone();
    put(&mut without, 0x06, 0, 2);
    let without = Config::parse(&without[..64]);
    assert_eq!(
        (without.capabilities, without.flr),
        (Some(vec![]), Some(false)),
        "64 bytes say that there is no list"
    );
    assert_eq!(without.acs, Acs::Missing, "what is not PCI Express has none");
}

#[test]
fn a_card_with_everything() {
    let mut space = root_port();
    put(&mut space, 0x0e, 0, 1);
    put(&mut space, 0x2c, 0x403b_1458, 4);
    put(&mut space, 0x62, 0x0002, 2); // an endpoint
    put(&mut space, 0x64, 1 << 28, 4);
    put(&mut space, 0x90, 0x0011, 2);
    put(&mut space, 0x92, 0x8003, 2);
    put(&mut space, 0x100, 0x2001_0015, 4);
    put(&mut space, 0x104, 0x0000_3f00 << 4, 4); // 256 MiB to 8 GiB
    put(&mut space, 0x108, 1 | 1 << 5 | 8 << 8, 4);
    put(&mut space, 0x200, 0x3001_0010, 4);
    put(&mut space, 0x20e, 63, 2);
    put(&mut space, 0x210, 2, 2);
    put(&mut space, 0x300, 0x0001_0003, 4);
    put(&mut space, 0x304, 0x0011_2233_4455_6677, 8);
    let config = Config::parse(&space);
    let size = |gib: u64| gib << 28;
    assert_eq!(
        config.resizable,
        [Resizable { bar: 1, size: size(1), sizes: [1, 2, 4, 8, 16, 32].map(size).to_vec() }]
    );
    assert_eq!(config.sr_iov, Some(SrIov { total: 63, now: 2 }));
    assert_eq!(config.serial.as_deref(), Some("00-11-22-33-44-55-66-77"));
    assert_eq!((config.flr, config.acs), (Some(true), Acs::Missing));
    assert_eq!(config.msi_x, Some(Vectors { count: 4, on: true }));
    without_serial(&mut space);
    assert_eq!(Config::parse(&space), Config { serial: None, ..config });

    let mut function = Function::new("01:00.0".parse().unwrap(), Class(0));
    function.know_config(&space);
    assert_eq!(function.id().unwrap().to_string(), "8086:460d");
    assert_eq!(function.subsystem().unwrap().to_string(), "1458:403b");
    assert_eq!((function.class.to_string().as_str(), function.revision), ("060400", Some(2)));
    assert_eq!(function.link.unwrap().width, Some(8));
    assert_eq!(function.config.unwrap().express.unwrap().link, None);
}

#[test]
fn conventional_devices_reset_by_advanced_features() {
    let mut space = vec![0; 256];
    put(&mut space, 0x06, 0x10, 2);
    put(&mut space, 0x34, 0x50, 1);
    put(&mut space, 0x50, 0x0306_0013, 4);
    assert_eq!(Config::parse(&space).flr, Some(true));
    put(&mut space, 0x50, 0x0206_0013, 4);
    assert_eq!(Config::parse(&space).flr, Some(false), "without the other bit the kernel does not use it");
}

#[test]
fn sunrise_point_has_wide_registers() {
    let mut space = root_port();
    put(&mut space, 0x02, 0xa110, 2);
    put(&mut space, 0x14e, 0, 2);
    put(&mut space, 0x150, 0x0f, 2);
    assert_eq!(Config::parse(&space).acs.setting(), Setting::On);
    put(&mut space, 0x02, 0xa120, 2);
    assert_eq!(Config::parse(&space).acs.setting(), Setting::Off);
}

#[test]
fn what_bites_its_tail_ends() {
    let mut space = root_port();
    put(&mut space, 0x91, 0x40, 1);
    put(&mut space, 0x148, 0x1001_000d, 4);
    let config = Config::parse(&space);
    assert_eq!((config.capabilities.unwrap().len(), config.extended.unwrap().len()), (3, 2));
    put(&mut space, 0x148, 0x1481_000d, 4);
    assert_eq!(Config::parse(&space).extended.unwrap().len(), 2);
    put(&mut space, 0x148, 0x0041_000d, 4);
    assert_eq!(Config::parse(&space).extended.unwrap().len(), 2, "an offset below 100 ends the list");
}

#[test]
fn a_device_off_the_bus_does_not_answer() {
    for length in [64, 256, 4096] {
        let config = Config::parse(&vec![0xff; length]);
        assert!(!config.answers);
        assert_eq!((config.header_type, config.capabilities, config.acs), (None, None, Acs::Unknown));
    }
    let mut virtual_function = root_port();
    put(&mut virtual_function, 0, 0xffff_ffff, 4);
    assert!(Config::parse(&virtual_function).answers);
    let mut function = Function::new("01:00.0".parse().unwrap(), Class(0));
    function.know_config(&virtual_function);
    assert_eq!(function.id(), None);
}

/// What a file of these bytes gives.
fn file(bytes: &[u8]) -> impl Fn(usize, usize) -> Option<Vec<u8>> {
    |at, length| Some(bytes.iter().skip(at).take(length).copied().collect())
}

#[test]
fn registers_are_fetched_once_each_and_only_as_needed() {
    let space = root_port();
    let asked = std::cell::RefCell::new(Vec::new());
    let config = Config::read(|at, length| {
        asked.borrow_mut().push((at, length));
        file(&space)(at, length)
    });
    assert_eq!(config.unwrap(), Config::parse(&space));
    let asked = asked.into_inner();
    assert_eq!(asked[0], (0, 16));
    let mut registers: Vec<usize> =
        asked.iter().flat_map(|(at, length)| (*at..at + length).step_by(4)).collect();
    assert!(registers.len() < 40, "{} of 1024 registers: {asked:x?}", registers.len());
    assert!(asked.len() < registers.len() - 3, "those that are together at once: {asked:x?}");
    assert!(asked.iter().all(|(at, length)| at % 4 == 0 && length % 4 == 0), "{asked:x?}");
    registers.sort_unstable();
    registers.dedup();
    let bytes: usize = asked.iter().map(|(_, length)| length).sum();
    assert_eq!(registers.len() * 4, bytes, "none twice: {asked:x?}");
}

#[test]
fn a_file_that_ends_early_is_all_there_is() {
    let space = root_port();
    for length in [0, 15, 64, 100, 256] {
        assert_eq!(
            Config::read(file(&space[..length])).unwrap(),
            Config::parse(&space[..length]),
            "{length}"
        );
    }
    let bare = [0x10, 0, 0, 0, 0, 0, 0, 0].iter().copied().cycle().take(64).collect::<Vec<u8>>();
    assert_eq!(Config::read(file(&bare)).unwrap().bytes, 64, "nothing beyond the head was asked for");
    assert_eq!(Config::read(|_, _| None), None);
}

#[test]
fn json_gives_it_back() {
    let mut config = Config::parse(&root_port());
    config.express.as_mut().unwrap().link = None;
    let text = serde_json::to_string(&config).unwrap();
    assert!(
        text.contains(r#""acs":{"present":{"can":["SrcValid","TransBlk","ReqRedir","CmpltRedir"]"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
}

#[test]
fn no_bytes_make_it_fail() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000_usize {
        let length = [0, 1, 15, 16, 63, 64, 65, 128, 255, 256, 257, 512, 4095, 4096, 5000][round % 15];
        let mut bytes: Vec<u8> = root_port().into_iter().cycle().take(length).collect();
        for _ in 0..random.below(64) {
            let at = random.below(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next().to_le_bytes()[0];
            }
        }
        let whole = Config::parse(&bytes);
        if length == 4096 {
            assert_eq!(Config::read(file(&bytes)).unwrap(), whole, "round {round}");
        }
        without_serial(&mut bytes);
        assert_eq!(Config::parse(&bytes).serial, None);
    }
}
