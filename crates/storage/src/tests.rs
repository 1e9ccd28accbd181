use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use imago::FormatCreateBuilder;
use imago::file::File;
use imago::qcow2::Qcow2;
use tempfile::TempDir;
use vm_memory::VolatileSlice;

use super::*;

const MIB: u64 = 1 << 20;

fn raw(path: &Path) -> DiskOptions {
    DiskOptions { path: path.to_owned(), format: Some(DiskFormat::Raw), ..DiskOptions::default() }
}

fn plain(path: &Path) -> DiskOptions {
    DiskOptions { path: path.to_owned(), ..DiskOptions::default() }
}

/// A new qcow2 image, over `backing` if there is one.
fn qcow2(path: &Path, backing: Option<(&str, &str)>) {
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    let mut image = Qcow2::<File>::create_builder(File::try_from(file).unwrap()).size(MIB);
    if let Some((name, format)) = backing {
        image = image.backing(name.to_owned(), format.to_owned());
    }
    image.create().unwrap();
}

fn write(disk: &Disk, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut data = data.to_vec();
    disk.write(&[VolatileSlice::from(&mut data[..])], offset)
}

fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xee; len];
    let (first, second) = data.split_at_mut(len / 2);
    disk.read(&[VolatileSlice::from(first), VolatileSlice::from(second)], offset).unwrap();
    data
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn raw(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, vec![1; MIB as usize]).unwrap();
        path
    }
}

#[test]
fn what_is_written_is_there_after_a_flush() {
    let bench = Bench::new();
    let image = bench.path("a.qcow2");
    qcow2(&image, None);
    let disk = Disk::open(&plain(&image)).unwrap();
    assert_eq!((disk.size(), read(&disk, 0, 1024)), (MIB, vec![0; 1024]));
    write(&disk, 512, &[7; 70_000]).unwrap();
    disk.flush().unwrap();
    // As after a crash: nothing of what this process still holds is used.
    let copy = bench.path("copy.qcow2");
    fs::copy(&image, &copy).unwrap();
    let after = Disk::open(&plain(&copy)).unwrap();
    assert_eq!(read(&after, 0, 71_000), read(&disk, 0, 71_000));
    assert_eq!(read(&after, 512, 70_000), vec![7; 70_000]);
}

#[test]
fn accesses_stay_on_the_disk() {
    let bench = Bench::new();
    let disk = Disk::open(&raw(&bench.raw("a"))).unwrap();
    for offset in [MIB, MIB - 511, u64::MAX, u64::MAX - 511] {
        assert!(write(&disk, offset, &[0; 512]).is_err(), "{offset}");
        assert!(disk.discard(offset, 512).is_err() && disk.write_zeroes(offset, 512, true).is_err());
    }
    write(&disk, MIB - 512, &[2; 512]).unwrap();
    assert_eq!(fs::metadata(bench.path("a")).unwrap().len(), MIB);
}

#[test]
fn zeroes_are_read_back_whether_space_is_released_or_not() {
    let bench = Bench::new();
    let image = bench.path("a.qcow2");
    qcow2(&image, None);
    for disk in [Disk::open(&plain(&image)).unwrap(), Disk::open(&raw(&bench.raw("b"))).unwrap()] {
        write(&disk, 0, &[5; 300_000]).unwrap();
        disk.write_zeroes(512, 1024, false).unwrap();
        disk.write_zeroes(65_536, 131_072, true).unwrap();
        disk.discard(262_144, 4096).unwrap();
        let data = read(&disk, 0, 300_000);
        assert_eq!((data[511], data[512], data[1535], data[1536]), (5, 0, 0, 5));
        assert_eq!((data[65_535], data[65_536], data[196_607], data[196_608]), (5, 0, 0, 5));
    }
}

#[test]
fn an_overlay_is_thrown_away() {
    let bench = Bench::new();
    let base = bench.raw("base");
    let options = DiskOptions { overlay: true, ..raw(&base) };
    let disk = Disk::open(&options).unwrap();
    let other = Disk::open(&options).expect("readers share");
    write(&disk, 4096, &[9; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!(read(&disk, 4096, 4096), [9; 4096]);
    assert_eq!(read(&disk, 0, 4096), [1; 4096]);
    assert_eq!(read(&other, 4096, 4096), [1; 4096]);
    drop((disk, other));
    assert_eq!(fs::read(&base).unwrap(), vec![1; MIB as usize]);
    assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 1);
}

#[test]
fn backing_files_are_read_and_left_alone() {
    let bench = Bench::new();
    bench.raw("base");
    qcow2(&bench.path("middle.qcow2"), Some(("base", "raw")));
    qcow2(&bench.path("top.qcow2"), Some(("middle.qcow2", "qcow2")));
    let disk = Disk::open(&plain(&bench.path("top.qcow2"))).unwrap();
    write(&disk, 100 * 512, &[3; 512]).unwrap();
    assert_eq!(read(&disk, 99 * 512, 512), [1; 512]);
    assert_eq!(read(&disk, 100 * 512, 512), [3; 512]);
    disk.flush().unwrap();
    assert!(matches!(Disk::open(&raw(&bench.path("base"))), Err(StorageError::InUse { .. })));
    drop(disk);
    assert_eq!(fs::read(bench.path("base")).unwrap(), vec![1; MIB as usize]);
}

#[test]
fn broken_chains_are_refused_in_one_sentence() {
    let bench = Bench::new();
    qcow2(&bench.path("loop.qcow2"), Some(("loop.qcow2", "qcow2")));
    qcow2(&bench.path("a.qcow2"), Some(("b.qcow2", "qcow2")));
    qcow2(&bench.path("b.qcow2"), Some(("a.qcow2", "qcow2")));
    qcow2(&bench.path("orphan.qcow2"), Some(("absent", "raw")));
    qcow2(&bench.path("folder.qcow2"), Some((".", "raw")));
    qcow2(&bench.path("device.qcow2"), Some(("/dev/zero", "raw")));
    for number in 0..70 {
        let below = format!("{}.qcow2", number + 1);
        qcow2(&bench.path(&format!("{number}.qcow2")), Some((&below, "qcow2")));
    }
    qcow2(&bench.path("70.qcow2"), None);
    for name in ["loop", "a", "orphan", "folder", "device", "0"] {
        let error = Disk::open(&plain(&bench.path(&format!("{name}.qcow2")))).unwrap_err();
        assert!(!error.to_string().is_empty() && !error.to_string().contains('\n'), "{error}");
        if name == "orphan" {
            assert!(matches!(&error, StorageError::Part { path, .. } if path.ends_with("absent")), "{error}");
        }
        let is_chain = matches!(error, StorageError::Chain { .. });
        assert_eq!(is_chain, matches!(name, "loop" | "a" | "0"), "{name}: {error}");
    }
    assert!(Disk::open(&plain(&bench.path("60.qcow2"))).is_ok());
}

#[test]
fn damaged_images_are_refused_or_fail_when_read() {
    let bench = Bench::new();
    let path = bench.path("a.qcow2");
    qcow2(&path, None);
    write(&Disk::open(&plain(&path)).unwrap(), 0, &[1; 200_000]).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in [4, 72, 104, 512, 65_536, whole.len() / 2] {
        fs::write(&path, &whole[..len]).unwrap();
        let _ = Disk::open(&plain(&path)).map(|disk| disk.read(&[VolatileSlice::from(&mut [0; 512][..])], 0));
    }
    let mut state = 1_u64;
    for _ in 0..300 {
        let mut broken = whole.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % 120;
            broken[at] = (state >> 20) as u8;
        }
        broken[..4].copy_from_slice(b"QFI\xfb");
        fs::write(&path, &broken).unwrap();
        let _ = Disk::open(&plain(&path)).map(|disk| {
            let _ = disk.read(&[VolatileSlice::from(&mut [0; 512][..])], 0);
            let _ = write(&disk, 0, &[1; 512]);
            let _ = disk.flush();
        });
    }
}

/// What is cut off would be read as zeroes.
#[test]
fn images_that_were_cut_off_are_refused() {
    let bench = Bench::new();
    let (base, top) = (bench.path("base.qcow2"), bench.path("top.qcow2"));
    qcow2(&base, None);
    qcow2(&top, Some(("base.qcow2", "qcow2")));
    let disk = Disk::open(&plain(&base)).unwrap();
    write(&disk, 0, &[1; 200_000]).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let whole = fs::read(&base).unwrap();
    assert!(Disk::open(&plain(&top)).is_ok());
    // Into the header, behind it, behind the counts and behind the first table.
    for len in [4, 104, 65_536, 131_072, 196_608, 262_144] {
        fs::write(&base, &whole[..len]).unwrap();
        for image in [&base, &top] {
            let error =
                Disk::open(&DiskOptions { format: Some(DiskFormat::Qcow2), ..plain(image) }).unwrap_err();
            assert!(matches!(error, StorageError::Invalid { .. }), "{len}: {error}");
        }
    }
}

/// An image must not name what is written.
#[test]
fn data_in_another_file_is_only_read() {
    let bench = Bench::new();
    let (image, data) = (bench.path("a.qcow2"), bench.path("data"));
    let (name, data_name) = (image.display().to_string(), data.display().to_string());
    let options = format!("data_file={data_name},data_file_raw=on");
    if qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &name, "1M"]) != Some(true) {
        return;
    }
    fs::write(&data, vec![4; MIB as usize]).unwrap();
    assert!(matches!(Disk::open(&plain(&image)), Err(StorageError::Invalid { .. })));
    let disk = Disk::open(&DiskOptions { overlay: true, ..plain(&image) }).unwrap();
    write(&disk, 0, &[5; 512]).unwrap();
    assert_eq!((read(&disk, 0, 512), read(&disk, 512, 512)), (vec![5; 512], vec![4; 512]));
    drop(disk);
    assert_eq!(fs::read(&data).unwrap(), vec![4; MIB as usize]);
}

#[test]
fn what_cannot_be_written_can_be_read() {
    let bench = Bench::new();
    let path = bench.raw("a");
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("left out: this process may write what is read-only");
        return;
    }
    assert!(matches!(Disk::open(&raw(&path)), Err(StorageError::NotWritable { .. })));
    for options in
        [DiskOptions { read_only: true, ..raw(&path) }, DiskOptions { overlay: true, ..raw(&path) }]
    {
        assert!(Disk::open(&options).is_ok());
    }
}

#[test]
fn formats_are_never_guessed_from_what_a_guest_may_have_written() {
    let bench = Bench::new();
    let image = bench.raw("disk.img");
    assert!(Disk::open(&plain(&image)).is_ok());
    let other = bench.path("other.qcow2");
    qcow2(&other, None);
    fs::copy(&other, &image).unwrap();
    assert!(matches!(Disk::open(&plain(&image)), Err(StorageError::Ambiguous { .. })));
    let as_raw = Disk::open(&raw(&image)).unwrap();
    assert_eq!(read(&as_raw, 0, 512)[..4], *b"QFI\xfb");
    drop(as_raw);
    let detect = DiskOptions { detect: true, ..plain(&image) };
    assert_eq!(Disk::open(&detect).unwrap().size(), MIB);
    let foreign = bench.raw("disk.vhdx");
    assert!(matches!(Disk::open(&plain(&foreign)), Err(StorageError::UnknownFormat { format: "vhdx", .. })));
    assert!(Disk::open(&raw(&foreign)).is_ok());
    let liar = bench.raw("liar.qcow2");
    assert!(matches!(Disk::open(&plain(&liar)), Err(StorageError::NotWhatItIsCalled { .. })));
    assert!(Disk::open(&raw(&liar)).is_ok());
}

#[test]
fn what_is_no_disk_is_refused() {
    let bench = Bench::new();
    let open = |path: &Path| Disk::open(&raw(path)).unwrap_err();
    assert!(matches!(open(bench.0.path()), StorageError::NotADisk { .. }));
    assert!(matches!(open(Path::new("/dev/null")), StorageError::NotADisk { .. }));
    assert!(matches!(open(&bench.path("absent")), StorageError::Open { .. }));
    let odd = bench.path("odd");
    fs::write(&odd, [0; 513]).unwrap();
    assert!(matches!(open(&odd), StorageError::OddSize { .. }));
    fs::write(&odd, []).unwrap();
    assert!(matches!(open(&odd), StorageError::Empty { .. }));
    let pipe = bench.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(open(&pipe), StorageError::NotADisk { .. }));
    assert!(matches!(
        Disk::open(&DiskOptions { format: Some(DiskFormat::Qcow2), ..raw(&bench.raw("a")) }).unwrap_err(),
        StorageError::Invalid { .. }
    ));
}

#[test]
fn one_writes_or_several_read() {
    let bench = Bench::new();
    let path = bench.raw("a");
    let reading = DiskOptions { read_only: true, ..raw(&path) };
    let writer = Disk::open(&raw(&path)).unwrap();
    assert!(matches!(Disk::open(&raw(&path)), Err(StorageError::InUse { writing: true, .. })));
    assert!(matches!(Disk::open(&reading), Err(StorageError::InUse { writing: false, .. })));
    drop(writer);
    let readers = (Disk::open(&reading).unwrap(), Disk::open(&reading).unwrap());
    assert!(matches!(Disk::open(&raw(&path)), Err(StorageError::InUse { .. })));
    assert_eq!(write(&readers.0, 0, &[0; 512]).unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    drop(readers);
    assert!(Disk::open(&raw(&path)).is_ok());
}

/// Runs qemu-img; None, with a word on it, if it is not there.
fn qemu_img(args: &[&str]) -> Option<bool> {
    match Command::new("qemu-img").args(args).output() {
        Ok(output) => Some(output.status.success()),
        Err(error) => {
            eprintln!("left out: qemu-img cannot be run ({error})");
            None
        }
    }
}

#[test]
fn qemu_sees_our_locks_and_finds_our_images_whole() {
    let bench = Bench::new();
    let path = bench.path("a.qcow2");
    qcow2(&path, None);
    let disk = Disk::open(&plain(&path)).unwrap();
    for step in 0..40 {
        write(&disk, step * 25_600, &[step as u8; 20_480]).unwrap();
    }
    disk.discard(131_072, 262_144).unwrap();
    disk.flush().unwrap();
    let name = path.display().to_string();
    if let Some(read) = qemu_img(&["info", &name]) {
        assert!(!read, "the image is in use");
        drop(disk);
        assert_eq!(qemu_img(&["check", &name]), Some(true));
    }
}

#[test]
fn vmdk_images_are_read() {
    let bench = Bench::new();
    let (image, source) = (bench.path("a.vmdk"), bench.raw("source"));
    let (source, name) = (source.display().to_string(), image.display().to_string());
    let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", &source, &name];
    if qemu_img(&convert) != Some(true) {
        return;
    }
    assert!(matches!(Disk::open(&plain(&image)), Err(StorageError::ReadOnlyFormat { .. })));
    let disk = Disk::open(&DiskOptions { read_only: true, ..plain(&image) }).unwrap();
    assert_eq!((disk.size(), read(&disk, 8192, 512)), (MIB, vec![1; 512]));
}

/// Half of the disk is written, in pieces of less than a grain.
#[test]
fn sparse_vmdk_images_are_read() {
    let bench = Bench::new();
    let (image, source) = (bench.path("a.vmdk"), bench.path("source"));
    let mut contents = vec![0; 40 * MIB as usize];
    for piece in contents.chunks_mut(300_000).step_by(2) {
        piece.iter_mut().zip(1..).for_each(|(byte, number): (&mut u8, u32)| *byte = (number % 251) as u8);
    }
    fs::write(&source, &contents).unwrap();
    let (source, name) = (source.display().to_string(), image.display().to_string());
    if qemu_img(&["convert", "-f", "raw", "-O", "vmdk", &source, &name]) != Some(true) {
        return;
    }
    assert!(matches!(Disk::open(&plain(&image)), Err(StorageError::ReadOnlyFormat { .. })));
    let reading = DiskOptions { read_only: true, ..plain(&image) };
    let disk = Disk::open(&reading).unwrap();
    assert_eq!(disk.size(), 40 * MIB);
    for offset in (0..40 * MIB).step_by(1 << 20) {
        assert!(read(&disk, offset, 1 << 20) == contents[offset as usize..][..1 << 20], "{offset}");
    }
    let layer = Disk::open(&DiskOptions { overlay: true, ..plain(&image) }).unwrap();
    write(&layer, 512, &[9; 512]).unwrap();
    assert_eq!((read(&layer, 0, 512), read(&layer, 512, 512)), (contents[..512].to_vec(), vec![9; 512]));
    drop((disk, layer));
    // Cut off: in the header, in the text, in the tables, in the grains.
    let whole = fs::read(&image).unwrap();
    for len in [60, 600, 11_000, whole.len() / 2] {
        fs::write(&image, &whole[..len]).unwrap();
        match Disk::open(&reading) {
            Ok(disk) => {
                let mut data = vec![0; 40 * MIB as usize];
                assert!(disk.read(&[VolatileSlice::from(&mut data[..])], 0).is_err(), "{len}");
            }
            Err(error) => assert!(matches!(error, StorageError::Invalid { .. }), "{len}: {error}"),
        }
    }
    let mut state = 7_u64;
    for _ in 0..300 {
        let mut broken = whole[..300_000].to_vec();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            broken[4 + (state >> 33) as usize % 76] = (state >> 20) as u8;
        }
        fs::write(&image, &broken).unwrap();
        let _ = Disk::open(&reading).map(|disk| disk.read(&[VolatileSlice::from(&mut [0; 512][..])], 0));
    }
    if qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", &source, &name])
        == Some(true)
    {
        let error = Disk::open(&reading).unwrap_err();
        assert!(matches!(error, StorageError::Invalid { .. }), "{error}");
    }
}
