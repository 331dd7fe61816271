//! What is known of the drivers that cards come with: which of them wait for their users, and what has to be
//! unloaded above them. Data only; the order of steps is made from it in [`crate::plan::live`].

use crate::host::Host;

/// What taking a function away from a driver means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverFacts {
    /// Name below /sys/bus/pci/drivers.
    pub driver: &'static str,
    /// Whether its remove waits until nobody has its device nodes open: the unbind would hang.
    pub waits: bool,
    /// Its own module, where that is unloaded once no other device has the driver. The kernel refuses to unload a
    /// module that is in use, at once; the unbind would wait.
    pub module: Option<&'static str>,
    /// Modules that use this driver's module and have to go first, in this order.
    pub above: &'static [&'static str],
    /// What happens to a process that has its nodes open, as the end of "…: ".
    pub otherwise: &'static str,
}

/// Drivers whose behaviour differs from [`UNKNOWN`], with the kernel's file that says so.
pub const DRIVERS: &[DriverFacts] = &[
    // sound/core/init.c: `snd_card_disconnect_sync` in its remove waits for every open file.
    waiting("snd_hda_intel", "the unbind would hang until it lets go"),
    // drivers/gpu/drm/drm_drv.c: `drm_dev_unplug` waits for nobody, open files go on without a device. These call
    // it: amdgpu_drv.c, i915_driver.c, nouveau_drm.c, xe_device.c, and the small ones below.
    drm("bochs-drm"),
    drm("cirrus"),
    drm("cirrus-qemu"),
    drm("qxl"),
    drm("virtio-pci"),
    drm("nouveau"),
    drm("amdgpu"),
    drm("i915"),
    drm("xe"),
    drm("ast"),
    drm("mgag200"),
    // radeon_drv.c: `radeon_pci_remove` is `drm_put_dev`, which takes the device apart under open files.
    DriverFacts {
        driver: "radeon",
        otherwise: "its driver would be taken apart under it, and the kernel may crash",
        ..drm("radeon")
    },
    // The open NVIDIA kernel modules: `nv_pci_remove` in nv-pci.c loops with a delay until the usage count is 0.
    // nvidia-drm uses nvidia-modeset, all others use nvidia alone; an open node of one (`.owner` in their
    // file_operations) or a console on nvidia-drm's frame buffer (570 and later) keeps its module.
    DriverFacts {
        driver: "nvidia",
        waits: true,
        module: Some("nvidia"),
        above: &["nvidia_drm", "nvidia_peermem", "nvidia_fs", "gdrdrv", "nvidia_uvm", "nvidia_modeset"],
        otherwise: "the driver would wait until it lets go",
    },
    // The card's USB-C: drivers/i2c/busses/i2c-nvidia-gpu.c, whose `i2c_del_adapter` (i2c-core-base.c) waits until
    // nobody has /dev/i2c-N open; the chip behind it (drivers/usb/typec/ucsi/ucsi_ccg.c) goes with its bus.
    waiting("nvidia-gpu", "the unbind would hang until it lets go"),
    // drivers/usb/core/hcd.c, `usb_remove_hcd`: everything on it is unplugged, whoever has it open.
    DriverFacts {
        driver: "xhci_hcd",
        waits: false,
        otherwise: "what is plugged in there would be unplugged",
        ..UNKNOWN
    },
    // drivers/vfio/vfio_main.c, `vfio_unregister_group_dev`: waits until the guest has closed the device.
    waiting("vfio-pci", "the unbind would hang until the guest ends"),
];

/// A driver that nothing is known of: taken to wait.
pub const UNKNOWN: DriverFacts = waiting("", "the unbind could hang until it lets go");

const fn waiting(driver: &'static str, otherwise: &'static str) -> DriverFacts {
    DriverFacts { driver, waits: true, module: None, above: &[], otherwise }
}

const fn drm(driver: &'static str) -> DriverFacts {
    DriverFacts { waits: false, ..waiting(driver, "it would go on in the dark, with no picture") }
}

/// The modules above a driver's own, in the order in which they can be unloaded: those that are loaded, where the
/// host was looked at, those that are known otherwise.
pub fn above(host: &Host, driver: &str) -> Vec<String> {
    let known = facts(driver).above;
    match &host.nvidia {
        Some(nvidia) if driver == "nvidia" => {
            let mut above = nvidia.above.clone();
            // One that is not known uses those that are.
            above.sort_by_key(|module| known.iter().position(|k| k == module).map_or(0, |at| at + 1));
            above
        }
        _ => known.iter().map(|module| (*module).to_owned()).collect(),
    }
}

/// What is known of a driver.
pub fn facts(driver: &str) -> DriverFacts {
    DRIVERS.iter().copied().find(|facts| facts.driver == driver).unwrap_or(UNKNOWN)
}
