//! What is known of the drivers that cards come with: which of them wait for their users, and what has to be
//! unloaded above them. Data only; the order of steps is made from it in [`crate::plan::live`].

/// What taking a function away from a driver means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverFacts {
    /// Name below /sys/bus/pci/drivers.
    pub driver: &'static str,
    /// Whether its remove waits until nobody has its device nodes open: the unbind would hang.
    pub waits: bool,
    /// Modules that use this driver's module and have to go first, in this order.
    pub above: &'static [&'static str],
    /// What happens to a process that has its nodes open, as the end of "…: ".
    pub otherwise: &'static str,
}

/// Drivers whose behaviour differs from [`UNKNOWN`].
///
/// Sources: sound/core/init.c (`snd_card_disconnect_sync` in `snd_hda_intel`'s remove waits for every open file);
/// drivers/gpu/drm/drm_drv.c (`drm_dev_unplug` waits for nobody, open files go on without a device);
/// the open NVIDIA kernel modules (`nv_pci_remove` loops with a delay until the usage count is 0).
pub const DRIVERS: &[DriverFacts] = &[
    DriverFacts {
        driver: "snd_hda_intel",
        waits: true,
        above: &[],
        otherwise: "the unbind would hang until it lets go",
    },
    drm("bochs-drm"),
    drm("cirrus"),
    drm("cirrus-qemu"),
    drm("qxl"),
    drm("virtio-pci"),
    drm("nouveau"),
    drm("amdgpu"),
    drm("radeon"),
    drm("i915"),
    drm("xe"),
    drm("ast"),
    drm("mgag200"),
    DriverFacts {
        driver: "nvidia",
        waits: true,
        above: &["nvidia_drm", "nvidia_uvm", "nvidia_modeset"],
        otherwise: "the unbind would hang until it lets go",
    },
    DriverFacts {
        driver: "vfio-pci",
        waits: true,
        above: &[],
        otherwise: "the unbind would hang until the guest ends",
    },
];

/// A driver that nothing is known of: taken to wait.
pub const UNKNOWN: DriverFacts =
    DriverFacts { driver: "", waits: true, above: &[], otherwise: "the unbind could hang until it lets go" };

const fn drm(driver: &'static str) -> DriverFacts {
    DriverFacts { driver, waits: false, above: &[], otherwise: "it would go on in the dark, with no picture" }
}

/// What is known of a driver.
pub fn facts(driver: &str) -> DriverFacts {
    DRIVERS.iter().copied().find(|facts| facts.driver == driver).unwrap_or(UNKNOWN)
}
