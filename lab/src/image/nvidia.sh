# A driver for the look-alike card, where depmod.d(5) puts modules from elsewhere, and what packages of the real one
# bring: its other modules with it, and no nouveau.
updates=/usr/lib/modules/$(uname -r)/updates
mkdir -p "$updates"
cp /lab/*.ko "$updates"
depmod
cat > /etc/modprobe.d/nvidia.conf <<'CONF'
softdep nvidia post: nvidia-uvm nvidia-drm
blacklist nouveau
CONF
