//! What stands between this process and /dev/kvm.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const DEVICE: &str = "/dev/kvm";

/// What opening /dev/kvm came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Kvm {
    /// It opens.
    Opens,
    /// There is none.
    Absent,
    /// It may not be opened; this group may, if one may.
    Denied(Option<String>),
    /// It cannot be opened for another reason.
    Broken(String),
}

/// Tries to open /dev/kvm.
pub fn probe() -> Kvm {
    probe_device(Path::new(DEVICE), Path::new("/etc/group"))
}

fn probe_device(device: &Path, groups: &Path) -> Kvm {
    let Err(error) = OpenOptions::new().read(true).write(true).open(device) else {
        return Kvm::Opens;
    };
    match error.kind() {
        io::ErrorKind::NotFound => Kvm::Absent,
        io::ErrorKind::PermissionDenied => Kvm::Denied(group_that_may(device, groups)),
        _ => Kvm::Broken(error.to_string()),
    }
}

fn group_that_may(device: &Path, groups: &Path) -> Option<String> {
    let metadata = fs::metadata(device).ok()?;
    let may = metadata.mode() & 0o060 == 0o060 && metadata.gid() != 0;
    let text = fs::read_to_string(groups).ok()?;
    may.then(|| group_name(&text, metadata.gid()))?
}

/// group(5): name:password:gid:members
fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

impl Kvm {
    /// Why the engine cannot be used, in half a sentence.
    pub fn reason(&self) -> String {
        match self {
            Self::Opens => {
                format!("{DEVICE} opens, but the engine is not in this release yet")
            }
            Self::Absent => {
                format!("there is no {DEVICE} (no virtualization hardware, or the kvm module is not loaded)")
            }
            Self::Denied(Some(group)) => {
                format!("no permission to open {DEVICE}; join the group {group} and log in again")
            }
            Self::Denied(None) => format!("no permission to open {DEVICE}; only root has it"),
            Self::Broken(error) => format!("{DEVICE} cannot be opened ({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_to_join_is_found_by_number() {
        let groups = "root:x:0:\nkvm:x:104:a,b\nkvm2:x:1040:\n";
        assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 4), None);
        let reason = Kvm::Denied(Some("kvm".to_owned())).reason();
        assert!(reason.contains("join the group kvm"), "{reason}");
    }

    #[test]
    fn devices_are_told_apart() {
        let nothing = Path::new("/nonexistent");
        assert_eq!(probe_device(nothing, nothing), Kvm::Absent);
        assert_eq!(probe_device(Path::new("/dev/null"), nothing), Kvm::Opens);
        assert!(matches!(probe_device(Path::new("/"), nothing), Kvm::Broken(_)));
    }
}
