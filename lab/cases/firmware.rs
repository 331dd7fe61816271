//! A card that no driver of the host draws on: the console is on what the firmware set up.

use lab::{Firmware, Host, Machine, small_host};

const CARD: &str = "0000:01:00.0";

fn framebuffers(host: &Host) -> String {
    host.read("/proc/fb")
}

#[test]
fn the_firmwares_frame_buffer_goes_and_its_loss_is_told() {
    let machine = Machine::single_bochs().firmware(Firmware::Uefi);
    let host = small_host(machine).cmdline("modprobe.blacklist=bochs").boot();
    assert_eq!(framebuffers(&host), "0 EFI VGA\n");
    host.run("gpuferry inspect gpus").ok().prints("EFI VGA");

    // Taken from efifb, and given back: nobody but gpuferry has touched it, and it draws again.
    let screen = "/sys/bus/platform/drivers/efi-framebuffer";
    host.run(&format!("echo efi-framebuffer.0 > {screen}/unbind && cat /proc/fb")).ok();
    host.run(&format!("echo efi-framebuffer.0 > {screen}/bind && cat /proc/fb")).ok().prints("EFI VGA");

    let out = host.run(&format!("gpuferry detach {CARD}")).ok();
    out.prints("frame buffer, unbound").prints("does not come back before a reboot").prints("is lent");
    host.expect_driver(CARD, "vfio-pci");
    assert_eq!(framebuffers(&host), "");
    // vfio-pci has thrown the device out, as the kernel does since 6.0.
    host.run("ls /sys/bus/platform/devices | grep efi-framebuffer").status(1);
    let back = host.run(&format!("gpuferry reattach {CARD}")).ok();
    back.prints("is home").prints("back with the next boot");
    host.run(&format!("gpuferry reattach {CARD}")).ok().prints("nothing was changed");
}
