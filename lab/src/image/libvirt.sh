# Guests are root's: where only root may open /dev/kvm, libvirt asks QEMU anew at every step otherwise.
cat >> /etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
remember_owner = 0
CONF
systemctl restart libvirtd
# No network of its own: nothing here has a guest on one.
virsh net-destroy default || true
virsh net-autostart --disable default || true
# What QEMU can is asked once, here, and kept below /var/cache/libvirt.
virsh capabilities > /dev/null
virsh domcapabilities --virttype qemu > /dev/null
