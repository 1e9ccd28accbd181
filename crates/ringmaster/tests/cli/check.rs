//! What `check` says of hosts that cannot use KVM: each is made in namespaces
//! of its own, with another /dev/kvm, /proc/cpuinfo, /sys/module and group file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use crate::common::stdout;

/// A host, made by a script that finds its files in the current directory.
struct Host {
    script: &'static str,
    reason: &'static str,
}

const HOSTS: [Host; 7] = [
    Host { script: "cp flags-none cpuinfo", reason: "the processor offers neither VT-x nor AMD-V" },
    Host {
        script: "cp flags-vmx cpuinfo",
        reason: "there is no /dev/kvm, because the module is not loaded: modprobe kvm-intel",
    },
    Host {
        script: "cp flags-svm cpuinfo; mkdir /sys/module/kvm_amd",
        reason: "the module is loaded, but there is no /dev/kvm here: pass the device on to this container",
    },
    Host {
        script: "cp flags-svm cpuinfo; touch /dev/kvm; mount --bind socket /dev/kvm",
        reason: "there is no /dev/kvm, because the module is not loaded: modprobe kvm-amd",
    },
    Host {
        script: "cp flags-svm cpuinfo; touch /dev/kvm; chmod 060 /dev/kvm",
        reason: "no permission to open /dev/kvm; join the group virtualizers and log in again",
    },
    Host {
        script: "cp flags-svm cpuinfo; touch /dev/kvm; chmod 0 /dev/kvm",
        reason: "no permission to open /dev/kvm; only root has it",
    },
    Host {
        script: "cp flags-svm cpuinfo; touch /dev/kvm; chmod 666 /dev/kvm",
        reason: "/dev/kvm is not KVM's device: it does not answer as one",
    },
];

/// A user without rights in a namespace below, whose number has a group.
const INSIDE: &str = "exec unshare --user --map-user=1000 --map-group=1000 \"$@\"";

/// The program on that host.
fn on(host: &Host, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, flags) in [("flags-none", "fpu sse2"), ("flags-vmx", "fpu vmx"), ("flags-svm", "fpu svm")] {
        fs::write(at(name), format!("processor\t: 0\nflags\t\t: {flags}\n")).unwrap();
    }
    fs::write(at("group"), "root:x:0:\nvirtualizers:x:1000:somebody\n").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "set -e; mount -t tmpfs none /dev; mount -t tmpfs none /sys/module; {}; \
         mount --bind cpuinfo /proc/cpuinfo; mount --bind group /etc/group; {INSIDE}",
        host.script
    );
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_ringmaster"))
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Whether this user may make namespaces; if not, that is printed.
fn has_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args(["mount -t tmpfs none /sys/module && unshare --user --map-user=1000 --map-group=1000 true"]);
    let made = command.output().is_ok_and(|output| output.status.success());
    if !made {
        eprintln!("skipped: this user cannot make namespaces");
    }
    made
}

#[test]
fn each_reason_against_kvm_is_told() {
    if !has_namespaces() {
        return;
    }
    for host in &HOSTS {
        let output = on(host, &["check", "--json", "--require", "kvm"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{}: {said}", host.script);
        assert!(said.contains(host.reason) && said.lines().count() == 1, "{}: {said}", host.script);
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let kvm = &report["engines"][0];
        assert_eq!((kvm["name"].as_str(), kvm["usable"].as_bool()), (Some("kvm"), Some(false)));
        assert!(kvm["reason"].as_str().unwrap().contains(host.reason), "{kvm}");
        assert_ne!(report["auto"], "kvm");
    }
}

#[test]
fn a_run_without_kvm_is_refused_or_says_what_it_takes_instead() {
    if !has_namespaces() {
        return;
    }
    let [host, ..] = &HOSTS;
    let output = on(host, &["demo", "--embedded", "--engine", "kvm"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(host.reason) && said.lines().count() == 1, "{said}");
    let output = on(host, &["demo", "--embedded", "--timeout", "60"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("chosen because kvm: ") && said.contains(host.reason), "{said}");
}
