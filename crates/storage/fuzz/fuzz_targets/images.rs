//! An image of any contents, opened by them, read and written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::{Disk, DiskOptions};
use vm_memory::VolatileSlice;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    std::fs::write(&path, bytes).expect("a file");
    for (read_only, overlay) in [(true, false), (false, true), (false, false)] {
        let options = DiskOptions { path: path.clone(), detect: true, read_only, overlay, ..DiskOptions::default() };
        let Ok(disk) = Disk::open(&options) else { continue };
        let mut data = [1; 4096];
        for offset in [0, disk.size() / 2 & !511, disk.size().saturating_sub(4096) & !511] {
            let _ = disk.read(&[VolatileSlice::from(&mut data[..])], offset);
            let _ = disk.write(&[VolatileSlice::from(&mut data[..])], offset);
            let _ = disk.discard(offset, 4096);
            let _ = disk.write_zeroes(offset, 4096, true);
        }
        let _ = disk.flush();
    }
});
