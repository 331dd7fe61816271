//! What a case wants to know of the PCI devices in the emulated host, read from its sysfs.

use crate::host::Host;

impl Host {
    /// The driver that is bound to the device at `address` (`0000:01:00.0`).
    #[track_caller]
    pub fn driver(&self, address: &str) -> Option<String> {
        self.link_name(address, "driver")
    }

    /// The IOMMU group of the device.
    #[track_caller]
    pub fn group(&self, address: &str) -> Option<u32> {
        self.link_name(address, "iommu_group")?.parse().ok()
    }

    /// The addresses of all devices in the same group, the device itself among them; empty without an IOMMU.
    #[track_caller]
    pub fn group_members(&self, address: &str) -> Vec<String> {
        let listed = self.run(&format!("ls /sys/bus/pci/devices/{address}/iommu_group/devices 2>/dev/null"));
        listed.stdout().split_whitespace().map(str::to_owned).collect()
    }

    /// An attribute of the device without white space around it; none when it is not there or cannot be read.
    #[track_caller]
    pub fn attribute(&self, address: &str, name: &str) -> Option<String> {
        let path = format!("/sys/bus/pci/devices/{address}/{name}");
        self.try_read(&path).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Vendor and device id as lspci writes them: `10de:2204`.
    #[track_caller]
    pub fn ids(&self, address: &str) -> Option<String> {
        let id = |name| self.attribute(address, name).map(|text| text.trim_start_matches("0x").to_owned());
        Some(format!("{}:{}", id("vendor")?, id("device")?))
    }

    /// All PCI addresses, sorted.
    #[track_caller]
    pub fn addresses(&self) -> Vec<String> {
        let listed = self.run("ls /sys/bus/pci/devices").ok();
        listed.stdout().split_whitespace().map(str::to_owned).collect()
    }

    /// The device is bound to this driver; `None`: to none.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect_driver<'a>(&self, address: &str, driver: impl Into<Option<&'a str>>) -> &Self {
        let expected = driver.into();
        let found = self.driver(address);
        assert!(
            found.as_deref() == expected,
            "expected {address} to be bound to {expected:?}, it is bound to {found:?}"
        );
        self
    }

    /// Exactly these devices share the group of the first of them.
    ///
    /// # Panics
    /// When the group is another.
    #[track_caller]
    pub fn expect_group(&self, addresses: &[&str]) -> &Self {
        let found = self.group_members(addresses.first().copied().unwrap_or_default());
        assert!(found == addresses, "expected the group {addresses:?}, found {found:?}");
        self
    }

    #[track_caller]
    fn link_name(&self, address: &str, link: &str) -> Option<String> {
        let device = format!("/sys/bus/pci/devices/{address}");
        let shown = self.run(&format!("test -e {device} && readlink {device}/{link}; test -e {device}")).ok();
        shown.text().rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
    }
}
