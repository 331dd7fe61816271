// SPDX-License-Identifier: (MIT OR GPL-2.0)
/* What computing opens: /dev/nvidia-uvm. Needs nvidia, and shows nothing below the card. */
#include <linux/miscdevice.h>
#include <linux/module.h>
#include "nvidia.h"

static const struct file_operations fops = { .owner = THIS_MODULE };
static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR, .name = "nvidia-uvm", .fops = &fops, .mode = 0666,
};
/* The reason why nvidia cannot go before it. */
static void (*volatile needed)(struct pci_dev *, int);

static int __init uvm_init(void)
{
	needed = nvidia_use;
	return misc_register(&node);
}

static void __exit uvm_exit(void)
{
	misc_deregister(&node);
}

module_init(uvm_init);
module_exit(uvm_exit);
MODULE_VERSION("595.45.04");
MODULE_DESCRIPTION("Stands for NVIDIA's unified memory in the lab");
MODULE_LICENSE("Dual MIT/GPL");
