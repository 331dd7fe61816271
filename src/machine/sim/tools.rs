//! Debian's tools, as far as the order of their writes goes (initramfs-tools 0.142, GRUB 2.06).

use super::{Sim, disk::errno};
use crate::{
    machine::{Ownership, Program, Root},
    step::image,
};
use std::{
    io,
    path::{Path, PathBuf},
};

impl Sim {
    /// What a tool prints; `None`: it is none of these.
    pub(super) fn debian_tool(&self, program: &Program, words: &[String]) -> Option<io::Result<Vec<u8>>> {
        let has = |name: &str| words.iter().any(|word| word == name);
        if has("/usr/sbin/update-initramfs") {
            let kernel = words.last().cloned().unwrap_or_default();
            let folder = words.iter().find_map(|word| word.strip_prefix("TMPDIR=")).unwrap_or("/var/tmp");
            Some(self.update_initramfs(&kernel, Path::new(folder)).map(|()| Vec::new()))
        } else if has("/usr/sbin/grub-mkconfig") {
            Some(self.grub_mkconfig().map(String::into_bytes))
        } else if has("/usr/bin/grub-script-check") {
            Some(if program.stdin.is_empty() { Err(errno(22)) } else { Ok(Vec::new()) })
        } else {
            None
        }
    }

    /// `update-initramfs -u -k KERNEL`: keeps the old image as a link, writes IMAGE.new in pieces, renames.
    pub(crate) fn update_initramfs(&self, kernel: &str, folder: &Path) -> io::Result<()> {
        let image = PathBuf::from(format!("/boot/initrd.img-{kernel}"));
        let with = |end: &str| PathBuf::from(format!("/boot/initrd.img-{kernel}{end}"));
        let (new, bak) = (with(".new"), with(".dpkg-bak"));
        let work = folder.join("mkinitramfs_x");
        let bytes = self.image(kernel)?;
        let file = Ownership::root(0o644);
        let linked = self.exists(&image);
        if linked {
            self.tool(|disk| {
                let inode = disk.names[&image];
                disk.rename_entries(PathBuf::from("/boot"), vec![(bak.clone(), Some(inode))]);
                Ok(())
            })?;
        }
        let made = (|| {
            self.tool(|disk| disk.create(&work, b"modules", &file, false))?;
            if self.exists(&new) {
                self.tool(|disk| disk.remove(&new))?;
            }
            let (one, two) = bytes.split_at(bytes.len() / 2);
            self.tool(|disk| {
                disk.create(&new, one, &file, false)?;
                let inode = disk.names[&new];
                disk.inodes[inode].on_disk.clear();
                Ok(())
            })?;
            self.tool(|disk| {
                let inode = disk.names[&new];
                disk.inodes[inode].bytes.extend(two);
                Ok(())
            })
        })();
        if made.is_err() {
            // Its traps clean up after an error; after a power cut nobody does.
            for path in [&new, &work].into_iter().chain(linked.then_some(&bak)) {
                if self.exists(path) {
                    self.tool(|disk| disk.remove(path))?;
                }
            }
            return made;
        }
        self.tool(|disk| disk.remove(&work))?;
        self.tool(|disk| disk.rename(&new, &image))?;
        self.tool(|disk| {
            disk.sync_file(&image)?;
            disk.sync_folder(Path::new("/boot"))
        })?;
        if linked {
            self.tool(|disk| disk.remove(&bak))?;
        }
        Ok(())
    }

    /// What mkinitramfs would pack from the sources.
    fn image(&self, kernel: &str) -> io::Result<Vec<u8>> {
        let scripts = Path::new("/etc/initramfs-tools/scripts/init-top");
        let mut names = vec!["udev".to_owned()];
        let mut files = vec![("init".to_owned(), kernel.as_bytes().to_vec())];
        for name in self.list(scripts).unwrap_or_default() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with('.') {
                files.push((format!("scripts/init-top/{name}"), self.read(&scripts.join(&name))?));
                names.push(name);
            }
        }
        names.sort();
        let mut order = String::new();
        for name in &names {
            order += &[
                "/scripts/init-top/",
                name,
                " \"$@\"
",
            ]
            .concat();
        }
        files.push(("scripts/init-top/ORDER".to_owned(), order.into_bytes()));
        let hook = Path::new("/etc/initramfs-tools/hooks/gpuferry");
        if self.exists(hook) && self.text(hook)?.contains("vfio-pci") {
            files.push((format!("usr/lib/modules/{kernel}/vfio-pci.ko"), b"module".to_vec()));
        }
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        Ok(image::pack(&files))
    }

    /// `grub-mkconfig`, to standard output.
    pub(crate) fn grub_mkconfig(&self) -> io::Result<String> {
        let folder = Path::new("/etc/default/grub.d");
        let mut sources = vec![PathBuf::from("/etc/default/grub")];
        let drop_ins = self.list(folder).unwrap_or_default();
        let drop_ins = drop_ins.iter().map(|name| name.to_string_lossy().into_owned());
        sources.extend(
            drop_ins
                .filter(|name| {
                    Path::new(name).extension().is_some_and(|end| end == "cfg") && !name.starts_with('.')
                })
                .map(|name| folder.join(name)),
        );
        let mut words = String::new();
        for source in sources {
            for line in self.text(&source)?.lines() {
                if let Some(value) = line.strip_prefix("GRUB_CMDLINE_LINUX_DEFAULT=") {
                    words = value.trim_matches('"').replace("$GRUB_CMDLINE_LINUX_DEFAULT", &words);
                }
            }
        }
        let mut text = String::from("# made by grub-mkconfig\n");
        for name in self.list(Path::new("/boot"))? {
            let Some(kernel) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) else { continue };
            for (id, words) in [("advanced", words.as_str()), ("recovery", "single")] {
                let entry = format!(
                    "menuentry 'Linux {kernel} {id}' $menuentry_id_option 'gnulinux-{kernel}-{id}-u' {{\n\
                     \tlinux /boot/vmlinuz-{kernel} root=UUID=u ro {words}\n}}\n"
                );
                text += &entry;
            }
        }
        Ok(text)
    }
}
