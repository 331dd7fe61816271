// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * The driver of the card: /dev/nvidiactl, /dev/nvidiaN, /proc/driver/nvidia, a monitor's I2C bus, and a remove that
 * waits for everybody who uses the card. The device nodes are not below the card in sysfs, as with the real driver;
 * those of the I2C bus are.
 */
#include <linux/delay.h>
#include <linux/i2c.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include "nvidia.h"

struct card {
	struct list_head list;
	struct pci_dev *pdev;
	struct miscdevice node;
	struct proc_dir_entry *proc;
	struct i2c_adapter bus;
	bool has_bus;
	atomic_t usage;
	int minor;
	char name[16];
};

static LIST_HEAD(cards);
static DEFINE_MUTEX(lock);
static const struct nv_callbacks *above;
static struct proc_dir_entry *gpus;
static unsigned long minors;

static int card_open(struct inode *inode, struct file *file)
{
	atomic_inc(&container_of(file->private_data, struct card, node)->usage);
	return 0;
}

static int card_release(struct inode *inode, struct file *file)
{
	atomic_dec(&container_of(file->private_data, struct card, node)->usage);
	return 0;
}

/* Whoever has one open keeps the module from being unloaded. */
static const struct file_operations card_fops = {
	.owner = THIS_MODULE, .open = card_open, .release = card_release,
};
static const struct file_operations control_fops = { .owner = THIS_MODULE };
static struct miscdevice control = {
	.minor = MISC_DYNAMIC_MINOR, .name = "nvidiactl", .fops = &control_fops, .mode = 0666,
};

static int information(struct seq_file *s, void *unused)
{
	struct card *card = s->private;

	seq_printf(s, "Model: \t\t Look-alike\nBus Type: \t PCIe\nBus Location: \t %s\nDevice Minor: \t %d\n",
		   pci_name(card->pdev), card->minor);
	return 0;
}

/* No monitor is connected: nobody answers. */
static int transfer(struct i2c_adapter *bus, struct i2c_msg *messages, int count)
{
	return -ENXIO;
}

static u32 functionality(struct i2c_adapter *bus)
{
	return I2C_FUNC_I2C | I2C_FUNC_SMBUS_EMUL;
}

static const struct i2c_algorithm wires = { .master_xfer = transfer, .functionality = functionality };

static int nv_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct card *card = kzalloc(sizeof(*card), GFP_KERNEL);
	int error;

	if (!card)
		return -ENOMEM;
	mutex_lock(&lock);
	card->pdev = pdev;
	card->minor = ffz(minors);
	snprintf(card->name, sizeof(card->name), "nvidia%d", card->minor);
	card->node = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR, .name = card->name, .fops = &card_fops, .mode = 0666,
	};
	error = misc_register(&card->node);
	if (error) {
		mutex_unlock(&lock);
		kfree(card);
		return error;
	}
	minors |= BIT(card->minor);
	card->proc = proc_mkdir(pci_name(pdev), gpus);
	proc_create_single_data("information", 0444, card->proc, information, card);
	card->bus = (struct i2c_adapter){ .owner = THIS_MODULE, .algo = &wires, .dev.parent = &pdev->dev };
	snprintf(card->bus.name, sizeof(card->bus.name), "NVIDIA i2c adapter 1 at %s", pci_name(pdev));
	card->has_bus = !i2c_add_adapter(&card->bus);
	pci_set_drvdata(pdev, card);
	list_add_tail(&card->list, &cards);
	if (above)
		above->probe(pdev);
	mutex_unlock(&lock);
	return 0;
}

static void nv_remove(struct pci_dev *pdev)
{
	struct card *card = pci_get_drvdata(pdev);

	mutex_lock(&lock);
	list_del(&card->list);
	/* As the real one does since 580.105: its screen goes with the card, the screens of others stay. */
	if (above)
		above->remove(pdev);
	mutex_unlock(&lock);
	misc_deregister(&card->node);
	if (atomic_read(&card->usage))
		pr_err("NVRM: Attempting to remove device %s with non-zero usage count!\n", pci_name(pdev));
	while (atomic_read(&card->usage))
		msleep(500);
	/* Waits for those who have it open. */
	if (card->has_bus)
		i2c_del_adapter(&card->bus);
	proc_remove(card->proc);
	mutex_lock(&lock);
	minors &= ~BIT(card->minor);
	mutex_unlock(&lock);
	kfree(card);
}

int nvidia_set_callbacks(const struct nv_callbacks *callbacks)
{
	struct card *card;
	int error = 0;

	mutex_lock(&lock);
	if (callbacks && above)
		error = -EBUSY;
	else if (callbacks)
		list_for_each_entry(card, &cards, list)
			callbacks->probe(card->pdev);
	else if (above)
		list_for_each_entry(card, &cards, list)
			above->remove(card->pdev);
	if (!error)
		above = callbacks;
	mutex_unlock(&lock);
	return error;
}
EXPORT_SYMBOL(nvidia_set_callbacks);

void nvidia_use(struct pci_dev *pdev, int by)
{
	atomic_add(by, &((struct card *)pci_get_drvdata(pdev))->usage);
}
EXPORT_SYMBOL(nvidia_use);

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_VGA << 8, .class_mask = ~0 },
	{ }
};
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver driver = { .name = "nvidia", .id_table = ids, .probe = nv_probe, .remove = nv_remove };

static int __init nv_init(void)
{
	int error = misc_register(&control);

	if (error)
		return error;
	gpus = proc_mkdir("gpus", proc_mkdir("driver/nvidia", NULL));
	error = pci_register_driver(&driver);
	if (error) {
		remove_proc_subtree("driver/nvidia", NULL);
		misc_deregister(&control);
	}
	return error;
}

static void __exit nv_exit(void)
{
	pci_unregister_driver(&driver);
	misc_deregister(&control);
	remove_proc_subtree("driver/nvidia", NULL);
}

module_init(nv_init);
module_exit(nv_exit);
MODULE_VERSION("595.45.04");
MODULE_DESCRIPTION("Stands for NVIDIA's driver in the lab");
MODULE_LICENSE("Dual MIT/GPL");
