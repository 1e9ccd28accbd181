//! What stands between this process and hardware assistance.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::Kvm;
use crate::probe::{self, Speed};

const DEVICE: &str = "/dev/kvm";

/// What this host has.
#[derive(Clone, Debug, PartialEq)]
pub enum Survey {
    /// It runs guests at the hardware's speed.
    Hardware(Speed),
    /// /dev/kvm works, but interprets guest kernels.
    Interprets(Speed),
    /// There is no /dev/kvm, for this reason.
    Absent(Absence),
    /// /dev/kvm may not be opened; this group may, if one may.
    Denied(Option<String>),
    /// It cannot be opened for another reason.
    Broken(String),
    /// The kernel lacks something, or the probe did not run.
    Unusable(String),
}

/// Why there is no /dev/kvm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The processor, or who lends it, offers neither VT-x nor AMD-V.
    Processor,
    /// The module is not loaded: its name for modprobe.
    Module(&'static str),
    /// The module is loaded; the device node is missing, as in containers.
    Node,
}

/// Looks at /dev/kvm and times the probe; once for the whole process.
pub fn survey() -> Survey {
    static ANSWER: OnceLock<Survey> = OnceLock::new();
    ANSWER.get_or_init(look).clone()
}

fn look() -> Survey {
    if let Some(obstacle) = obstacle(Path::new(DEVICE), Path::new("/etc/group")) {
        return obstacle;
    }
    let engine = match Kvm::new() {
        Ok(engine) => engine,
        Err(engine::EngineError::Unusable { reason, .. }) => return Survey::Unusable(reason),
        Err(error) => return Survey::Unusable(error.to_string()),
    };
    match probe::measure(&engine) {
        Ok(speed) if speed.is_hardware() => Survey::Hardware(speed),
        Ok(speed) => Survey::Interprets(speed),
        Err(why) => Survey::Unusable(format!("{DEVICE} opens, but its guests do not run ({why})")),
    }
}

/// What keeps the device from being opened.
fn obstacle(device: &Path, groups: &Path) -> Option<Survey> {
    let error = OpenOptions::new().read(true).write(true).open(device).err()?;
    Some(match error.kind() {
        io::ErrorKind::NotFound => {
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            Survey::Absent(absence(&cpuinfo, |module| Path::new("/sys/module").join(module).exists()))
        }
        io::ErrorKind::PermissionDenied => Survey::Denied(group_that_may(device, groups)),
        // The node is there, but nobody behind it.
        _ if error.raw_os_error() == Some(libc::ENODEV) || error.raw_os_error() == Some(libc::ENXIO) => {
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            Survey::Absent(absence(&cpuinfo, |_| false))
        }
        _ => Survey::Broken(error.to_string()),
    })
}

fn absence(cpuinfo: &str, loaded: impl Fn(&str) -> bool) -> Absence {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    let (module, folder) = match (has("vmx"), has("svm")) {
        (true, _) => ("kvm-intel", "kvm_intel"),
        (_, true) => ("kvm-amd", "kvm_amd"),
        _ => return Absence::Processor,
    };
    if loaded(folder) { Absence::Node } else { Absence::Module(module) }
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

impl Survey {
    /// Whether guests run as they should.
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Hardware(_))
    }

    /// Whether guests run at all.
    pub const fn is_possible(&self) -> bool {
        matches!(self, Self::Hardware(_) | Self::Interprets(_))
    }
}

/// Why, or why not, in half a sentence.
impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware(speed) => {
                write!(f, "runs guest kernels in hardware ({:.0} million instructions a second)", speed.mips)
            }
            Self::Interprets(speed) => write!(
                f,
                "{DEVICE} opens, but has no virtualization hardware behind it: it interprets guest kernels at \
                 {:.1} million instructions a second",
                speed.mips
            ),
            Self::Absent(Absence::Processor) => {
                write!(f, "there is no {DEVICE}, and the processor offers neither VT-x nor AMD-V")
            }
            Self::Absent(Absence::Module(module)) => {
                write!(f, "there is no {DEVICE}, because the module is not loaded: modprobe {module}")
            }
            Self::Absent(Absence::Node) => {
                write!(
                    f,
                    "the module is loaded, but there is no {DEVICE} here: pass the device on to this container"
                )
            }
            Self::Denied(Some(group)) => {
                write!(f, "no permission to open {DEVICE}; join the group {group} and log in again")
            }
            Self::Denied(None) => write!(f, "no permission to open {DEVICE}; only root has it"),
            Self::Broken(error) => write!(f, "{DEVICE} cannot be opened ({error})"),
            Self::Unusable(why) => f.write_str(why),
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
        let reason = Survey::Denied(Some("kvm".to_owned())).to_string();
        assert!(reason.contains("join the group kvm"), "{reason}");
    }

    #[test]
    fn devices_are_told_apart() {
        let nothing = Path::new("/nonexistent");
        assert!(matches!(obstacle(nothing, nothing), Some(Survey::Absent(_))));
        assert_eq!(obstacle(Path::new("/dev/null"), nothing), None);
        assert!(matches!(obstacle(Path::new("/"), nothing), Some(Survey::Broken(_))));
    }

    #[test]
    fn absence_has_a_reason() {
        let none = absence("flags\t: fpu sse2 svm_lock\n", |_| true);
        assert_eq!(none, Absence::Processor);
        assert_eq!(absence("flags\t: fpu vmx\n", |_| false), Absence::Module("kvm-intel"));
        assert_eq!(absence("flags\t: fpu svm\n", |module| module == "kvm_amd"), Absence::Node);
    }

    #[test]
    fn only_hardware_is_usable() {
        let slow = Survey::Interprets(Speed { mips: 0.5 });
        assert!(!slow.is_usable() && slow.is_possible());
        assert!(slow.to_string().contains("0.5 million"));
        let fast = Survey::Hardware(Speed { mips: 250.0 });
        assert!(fast.is_usable() && fast.to_string().contains("250 million"));
        assert!(!Survey::Denied(None).is_possible());
    }
}
