//! Bad usage, bad files and options of later releases: one sentence each, with
//! the status that the table promises.

use std::fs::{self, File};

use crate::common::{assert_refused, run};

#[test]
fn bad_usage_is_status_2() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "give a command: demo, run, check or inspect"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["run"], "--kernel"),
        (&["run", "--kernel"], "a value is required"),
        (&["run", "--kernel", "k", "--firmware", "f"], "cannot be used with"),
        (&["run", "--firmware", "f", "--initrd", "i"], "cannot be used with"),
        (&["run", "--firmware", "f", "--cmdline", "c"], "cannot be used with"),
        (&["run", "--kernel", "k", "--engine", "qemu"], "invalid value 'qemu'"),
        (&["run", "--kernel", "k", "--irqchip", "split"], "invalid value 'split'"),
        (&["run", "--kernel", "k", "--cpus", "0"], "invalid value '0'"),
        (&["demo", "--cpus", "33"], "33 is not in 1..=32"),
        (&["run", "--kernel", "k", "--memory", "0"], "at least 2M"),
        (&["run", "--kernel", "k", "--memory", "99999999G"], "at most 1024G"),
        (&["run", "--kernel", "k", "--memory", "lots"], "such as 512M"),
        (&["run", "--kernel", "k", "--timeout", "0"], "such as 30"),
        (&["run", "--kernel", "k", "--trace", "irq"], "cannot trace"),
        (&["run", "--kernel", "k", "--code-cache", "64K"], "from 1M to 1G, such as 64M"),
        (&["run", "--kernel", "k", "--code-cache", "2G"], "from 1M to 1G, such as 64M"),
        (&["run", "--kernel", "k", "--stats=xml"], "invalid value 'xml'"),
        (&["run", "--kernel", "k", "--on-reset", "halt"], "invalid value 'halt'"),
        (&["run", "--kernel", "k", "--console", "vga"], "stdio, none, file=PATH"),
        (&["run", "--kernel", "k", "--net", "wifi"], "tap=NAME"),
        (&["run", "--kernel", "k", "--net", "user,forward=tcp:0:22"], "such as tcp:2222:22"),
        (&["run", "--kernel", "k", "--net", "user,colour=red"], "no property 'colour=red'"),
        (&["run", "--kernel", "k", "--pcap", "f"], "give --net too"),
        (&["run", "--disk", "a,format=vdi"], "not a disk format"),
        (&["demo", "--embedded", "--refresh"], "cannot be used with"),
        (&["demo", "--exec", "echo \"x\""], "without double quotes"),
        (&["check", "--require", "xen"], "invalid value 'xen'"),
        (&["check", "--jsno"], "did you mean --json?"),
        (&["completions", "tcsh"], "invalid value 'tcsh'"),
        (&["fetch", "../etc", "x"], "is not a package"),
    ];
    for (arguments, words) in cases {
        assert_refused(&run(arguments), 2, words);
    }
}

#[test]
fn what_the_host_lacks_is_status_3() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, b"not a kernel").unwrap();
    let kernel = kernel.to_str().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&run(&["check", "--json"]).stdout).unwrap();
    let engines = report["engines"].as_array().unwrap();
    for engine in engines.iter().filter(|engine| engine["possible"] == false) {
        let engine = engine["name"].as_str().unwrap();
        let output = run(&["run", "--kernel", kernel, "--engine", engine]);
        let words = format!("engine {engine} cannot be used");
        assert_refused(&output, 3, &words);
    }
    let output = run(&["run", "--kernel", kernel, "--memory", "1024G"]);
    assert_refused(&output, 3, "this host has");
}

#[test]
fn a_network_that_cannot_be_had_is_status_3() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, b"not a kernel").unwrap();
    let kernel = kernel.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let absent = folder.path().join("socket").display().to_string();
    let cases = [
        (format!("user,forward=tcp:{port}:22"), format!("cannot listen at 127.0.0.1:{port}")),
        ("tap=no-such-tap0".to_owned(), "there is no tap device 'no-such-tap0'".to_owned()),
        (format!("stream={absent}"), format!("nobody takes frames at {absent}")),
    ];
    for (net, words) in cases {
        let output = run(&["run", "--engine", "interpret", "--kernel", kernel, "--net", &net]);
        assert_refused(&output, 3, &words);
    }
    let nowhere = folder.path().join("no/such.pcap").display().to_string();
    let output =
        run(&["run", "--engine", "interpret", "--kernel", kernel, "--net", "user", "--pcap", &nowhere]);
    assert_refused(&output, 1, "cannot keep frames");
}

#[test]
fn bad_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (empty, enormous, good) = (path("empty"), path("enormous"), path("good"));
    fs::write(&empty, b"").unwrap();
    fs::write(&good, b"x").unwrap();
    File::create(&enormous).unwrap().set_len(1 << 40).unwrap();
    for option in ["--kernel", "--firmware"] {
        let refuse = |file: &str, status, words| {
            assert_refused(&run(&["run", option, file]), status, words);
        };
        refuse(&path("absent"), 1, "No such file");
        refuse(&path(""), 5, "is a folder");
        refuse(&empty, 5, "is empty");
        refuse(&enormous, 5, "is too large");
        refuse("/dev/zero", 5, "is too large");
    }
    let output = run(&["run", "--kernel", &good, "--initrd", &enormous]);
    assert_refused(&output, 5, "the initrd");
    let output = run(&["run", "--kernel", &good, "--initrd", &good, "--initrd", &empty]);
    assert_refused(&output, 5, "is empty");
    assert_refused(&run(&["inspect", &path("absent")]), 1, "No such file");
    assert_refused(&run(&["inspect", &empty]), 5, "is empty");
}

#[test]
fn a_chip_that_the_engine_cannot_have_is_status_3() {
    let outcome = run(&["demo", "--embedded", "--engine", "interpret", "--irqchip", "kernel"]);
    assert_refused(&outcome, 3, "--irqchip kernel is not possible: its local APICs are the machine's");
}

/// The start of a qcow2 image of 64 KiB that builds upon `backing`. Its tables
/// lie behind it.
fn qcow2(backing: &str) -> Vec<u8> {
    let mut image = vec![0; 0x3_0000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x02");
    put(8, &0x200_u64.to_be_bytes());
    put(16, &(backing.len() as u32).to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &0x1_0000_u64.to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &0x1_0000_u64.to_be_bytes());
    put(48, &0x2_0000_u64.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(0x200, backing.as_bytes());
    image
}

#[test]
fn bad_disks_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, contents: &[u8]| fs::write(path(name), contents).unwrap();
    file("kernel", b"not a kernel");
    file("empty", b"");
    file("odd", &[0; 700]);
    file("other.vhdx", &[0; 512]);
    file("liar.qcow2", &[0; 512]);
    file("image", &qcow2("image"));
    file("loop.qcow2", &qcow2("loop.qcow2"));
    file("orphan.qcow2", &qcow2("absent.qcow2"));
    file("short.qcow2", &qcow2("absent.qcow2")[..0x1_0000]);
    file("flat.vmdk", b"# Disk DescriptorFile\nversion=1\n");
    let cases = [
        (path("absent"), 1, "cannot be opened: No such file"),
        (path(""), 5, "is neither a file nor a block device"),
        ("/dev/null".to_owned(), 5, "is neither a file nor a block device"),
        (path("empty"), 5, "is empty: give it a size"),
        (path("odd"), 5, "no whole number of 512-byte sectors"),
        (path("other.vhdx"), 2, "convert it with qemu-img"),
        (path("liar.qcow2"), 2, "say format=raw"),
        (path("image"), 2, "say format=qcow2 or format=raw"),
        (path("loop.qcow2"), 5, "it builds upon itself"),
        (path("orphan.qcow2"), 1, "absent.qcow2, of which the disk is made too"),
        (path("short.qcow2"), 5, "it is cut off"),
        (path("flat.vmdk"), 2, "add readonly or overlay"),
    ];
    for (disk, status, words) in cases {
        let output = run(&["run", "--engine", "interpret", "--kernel", &path("kernel"), "--disk", &disk]);
        assert_refused(&output, status, words);
    }
}
