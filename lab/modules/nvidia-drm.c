// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * A frame buffer for each card, in memory of its own. A console on it, or whoever has it open, keeps the module from
 * being unloaded; while it is there, the card is in use.
 */
#include <linux/fb.h>
#include <linux/module.h>
#include <linux/vmalloc.h>
#include "nvidia.h"

#define WIDTH 640
#define HEIGHT 480
#define PALETTE 16

static bool modeset = true;
module_param(modeset, bool, 0400);
static bool fbdev = true;
module_param(fbdev, bool, 0400);

static struct fb_info *screens[8];

static int set_colour(unsigned int index, unsigned int red, unsigned int green, unsigned int blue,
		      unsigned int alpha, struct fb_info *info)
{
	if (index >= PALETTE)
		return -EINVAL;
	((u32 *)info->pseudo_palette)[index] = (red >> 8) << 16 | (green >> 8) << 8 | blue >> 8;
	return 0;
}

static void destroy(struct fb_info *info)
{
	vfree((void __force *)info->screen_base);
	framebuffer_release(info);
}

/* An X server draws into it. Whoever has it mapped has it open. */
static int map(struct fb_info *info, struct vm_area_struct *vma)
{
	return remap_vmalloc_range(vma, (void __force *)info->screen_base, vma->vm_pgoff);
}

static const struct fb_ops ops = {
	.owner = THIS_MODULE, .fb_setcolreg = set_colour, .fb_destroy = destroy, .fb_mmap = map,
	__FB_DEFAULT_IOMEM_OPS_RDWR, __FB_DEFAULT_IOMEM_OPS_DRAW,
};

static void drm_probe(struct pci_dev *pdev)
{
	struct fb_info *info, **free = screens;

	while (free < screens + ARRAY_SIZE(screens) && *free)
		free++;
	if (!modeset || !fbdev || free == screens + ARRAY_SIZE(screens))
		return;
	info = framebuffer_alloc(PALETTE * sizeof(u32), &pdev->dev);
	if (!info)
		return;
	info->screen_base = (void __iomem __force *)vmalloc_user(WIDTH * HEIGHT * 4);
	info->screen_size = WIDTH * HEIGHT * 4;
	info->pseudo_palette = info->par;
	info->fbops = &ops;
	info->fix = (struct fb_fix_screeninfo){
		.id = "nvidia-drmdrmfb", .type = FB_TYPE_PACKED_PIXELS, .visual = FB_VISUAL_TRUECOLOR,
		.line_length = WIDTH * 4, .smem_len = WIDTH * HEIGHT * 4,
	};
	info->var = (struct fb_var_screeninfo){
		.xres = WIDTH, .yres = HEIGHT, .xres_virtual = WIDTH, .yres_virtual = HEIGHT, .bits_per_pixel = 32,
		.red = { 16, 8 }, .green = { 8, 8 }, .blue = { 0, 8 }, .activate = FB_ACTIVATE_NOW,
	};
	if (!info->screen_base || register_framebuffer(info)) {
		destroy(info);
		return;
	}
	nvidia_use(pdev, 1);
	*free = info;
}

static void drm_remove(struct pci_dev *pdev)
{
	struct fb_info **screen;

	for (screen = screens; screen < screens + ARRAY_SIZE(screens); screen++) {
		if (!*screen || (*screen)->device != &pdev->dev)
			continue;
		unregister_framebuffer(*screen);
		*screen = NULL;
		nvidia_use(pdev, -1);
	}
}

static const struct nv_callbacks callbacks = { .probe = drm_probe, .remove = drm_remove };

static int __init drm_init(void)
{
	return nvidia_modeset_set_callbacks(&callbacks);
}

static void __exit drm_exit(void)
{
	nvidia_modeset_set_callbacks(NULL);
}

module_init(drm_init);
module_exit(drm_exit);
MODULE_VERSION("595.45.04");
MODULE_DESCRIPTION("Stands for NVIDIA's DRM driver in the lab");
MODULE_LICENSE("Dual MIT/GPL");
