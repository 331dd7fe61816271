/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Modules with the names and the shape of NVIDIA's, for the lab's look-alike card. They drive nothing: what they
 * have in common with the real ones is who needs whom, who keeps whom from going, and what waits.
 */
#include <linux/pci.h>

/* What is done for every card, now and later. */
struct nv_callbacks {
	void (*probe)(struct pci_dev *pdev);
	void (*remove)(struct pci_dev *pdev);
};

/* nvidia: one set at a time; NULL takes the present one away. */
int nvidia_set_callbacks(const struct nv_callbacks *callbacks);
/* nvidia: one more or one less use of a card; its remove waits for all of them. */
void nvidia_use(struct pci_dev *pdev, int by);
/* nvidia_modeset: the same as nvidia_set_callbacks, for the module above. */
int nvidia_modeset_set_callbacks(const struct nv_callbacks *callbacks);
