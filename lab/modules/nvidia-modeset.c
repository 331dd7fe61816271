// SPDX-License-Identifier: (MIT OR GPL-2.0)
/* Stands between nvidia and nvidia_drm, with a device node of its own. */
#include <linux/miscdevice.h>
#include <linux/module.h>
#include "nvidia.h"

int nvidia_modeset_set_callbacks(const struct nv_callbacks *callbacks)
{
	return nvidia_set_callbacks(callbacks);
}
EXPORT_SYMBOL(nvidia_modeset_set_callbacks);

static const struct file_operations fops = { .owner = THIS_MODULE };
static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR, .name = "nvidia-modeset", .fops = &fops, .mode = 0666,
};

module_misc_device(node);
MODULE_VERSION("595.45.04");
MODULE_DESCRIPTION("Stands for NVIDIA's mode setting in the lab");
MODULE_LICENSE("Dual MIT/GPL");
