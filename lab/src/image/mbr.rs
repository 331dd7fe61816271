//! A master boot record: GRUB's first sector plus a partition table. Pure; source: the format GRUB's
//! `grub-core/boot/i386/pc/boot.S` leaves room for, and the PC's partition table at byte 446.

use anyhow::{Result, ensure};

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;

/// One entry of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition {
    /// Type byte: 0x83 Linux, 0xef EFI system partition.
    pub(crate) kind: u8,
    /// Marked active.
    pub(crate) boot: bool,
    /// First byte on the disk; a multiple of [`SECTOR`].
    pub(crate) start: u64,
    /// Bytes; a multiple of [`SECTOR`].
    pub(crate) size: u64,
}

/// Sector 0: the first 440 bytes of `boot` (GRUB's boot.img), `disk_id`, the table, the signature.
pub(crate) fn sector(boot: &[u8], disk_id: u32, partitions: &[Partition]) -> Result<[u8; 512]> {
    ensure!(partitions.len() <= 4, "a master boot record has room for 4 partitions");
    ensure!(boot.len() >= 440, "GRUB's boot.img is shorter than 440 bytes");
    let mut sector = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in sector.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, boot.get(..440).unwrap_or_default());
    put(440, &disk_id.to_le_bytes());
    for (index, partition) in partitions.iter().enumerate() {
        let at = 446 + 16 * index;
        ensure!(partition.start % SECTOR == 0 && partition.size % SECTOR == 0, "not on a sector's border");
        // Cylinder addresses are not used by anything that boots today: "beyond what they can say".
        put(at, &[if partition.boot { 0x80 } else { 0 }, 0xfe, 0xff, 0xff, partition.kind, 0xfe, 0xff, 0xff]);
        put(at + 8, &u32::try_from(partition.start / SECTOR)?.to_le_bytes());
        put(at + 12, &u32::try_from(partition.size / SECTOR)?.to_le_bytes());
    }
    put(510, &[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_code_do_not_overlap() {
        let root = Partition { kind: 0x83, boot: true, start: 1 << 20, size: 2 << 30 };
        let sector = sector(&[0xcc; 512], 0x1234_5678, &[root]).unwrap();
        assert!(sector[..440].iter().all(|b| *b == 0xcc));
        assert_eq!(sector[440..446], [0x78, 0x56, 0x34, 0x12, 0, 0]);
        assert_eq!(sector[446..454], [0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
        assert_eq!(sector[454..462], [0, 8, 0, 0, 0, 0, 0x40, 0]);
        assert!(sector[462..510].iter().all(|b| *b == 0));
        assert_eq!(sector[510..], [0x55, 0xaa]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let odd = Partition { kind: 0x83, boot: false, start: 100, size: 512 };
        assert!(sector(&[0; 512], 0, &[odd]).is_err());
        let huge = Partition { kind: 0x83, boot: false, start: 512, size: 4 << 40 };
        assert!(sector(&[0; 512], 0, &[huge]).is_err());
        assert!(sector(&[0; 100], 0, &[]).is_err());
    }
}
