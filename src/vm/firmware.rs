//! UEFI for guests: where distributions put OVMF, and the factory's variables that belong to a code image.
//!
//! The code is shared and read-only. The variables are a guest's own: a copy made once and kept, so that what its
//! system wrote there (boot entries, keys) is there the next time. Nothing is written here.

use crate::{
    error::{Error, Result},
    machine::Root,
};
use std::path::{Path, PathBuf};

/// Code images without Secure Boot: Debian and Ubuntu (`ovmf`), Fedora and Arch (`edk2-ovmf`), by their file lists.
/// The larger one first: it is what new guests get elsewhere, and the two do not read each other's variables.
const CODE: [&str; 5] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
];

/// The code image that guests of this machine get. Its variables are beside it.
pub fn ovmf(root: &dyn Root) -> Result<PathBuf> {
    let whole = |code: &PathBuf| root.exists(code) && root.exists(&variables(code));
    CODE.iter().map(PathBuf::from).find(whole).ok_or_else(|| {
        Error::usage("no UEFI firmware for guests (OVMF) is installed")
            .detail(format!(
                "looked for {} and its variables, and where other distributions have them",
                CODE[0]
            ))
            .hint("apt install ovmf   (Fedora: dnf install edk2-ovmf, Arch: pacman -S edk2-ovmf)")
            .hint("--firmware bios   or   --firmware FILE")
    })
}

/// The variables as they come with a code image.
pub fn variables(code: &Path) -> PathBuf {
    let name = code.file_name().map(|name| name.to_string_lossy().replace("CODE", "VARS"));
    code.with_file_name(name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::live::Live;

    fn installed(files: &[&str]) -> Result<PathBuf> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        ovmf(&Live::open(folder.path()).unwrap())
    }

    #[test]
    fn each_distributions_place_is_found_with_its_variables() {
        for (code, vars) in [
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ] {
            assert_eq!(installed(&[code, vars]).unwrap(), Path::new(code));
            assert_eq!(variables(Path::new(code)), Path::new(vars));
        }
    }

    #[test]
    fn without_variables_it_is_not_there_and_the_package_is_named() {
        for files in [&[][..], &["/usr/share/OVMF/OVMF_CODE_4M.fd"]] {
            let error = installed(files).unwrap_err();
            assert_eq!(error.status, crate::error::Status::Usage);
            assert!(error.to_string().contains("apt install ovmf"), "{error}");
        }
    }
}
