//! The legacy region: x87 and SSE as FXSAVE lays them out (SDM 1 tables 10-2
//! and 13-1).

use super::{Form, MXCSR_MASK, get, put};
use crate::{Exception, FpuState, X87State};

const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;

/// Writes x87 state: bytes 0 to 23 and 32 to 159. The selectors of the 32-bit
/// form are zero, as on processors that have deprecated them.
pub(super) fn put_x87(x87: &X87State, form: Form, area: &mut [u8]) {
    let mut head = [0; 24];
    head[0..2].copy_from_slice(&x87.fcw.to_le_bytes());
    head[2..4].copy_from_slice(&x87.fsw.to_le_bytes());
    head[4] = x87.ftw;
    head[6..8].copy_from_slice(&x87.fop.to_le_bytes());
    let width = if form.wide { 8 } else { 4 };
    head[8..8 + width].copy_from_slice(&x87.fip.to_le_bytes()[..width]);
    head[16..16 + width].copy_from_slice(&x87.fdp.to_le_bytes()[..width]);
    put(area, 0, &head);
    for (index, st) in x87.st.iter().enumerate() {
        let mut slot = [0; 16];
        slot[..10].copy_from_slice(&st[..10]);
        put(area, ST + 16 * index, &slot);
    }
}

/// Reads x87 state.
pub(super) fn get_x87(area: &[u8], form: Form) -> X87State {
    let mut x87 = X87State::INIT;
    x87.fcw = u16::from_le_bytes(get(area, 0));
    x87.fsw = u16::from_le_bytes(get(area, 2));
    [x87.ftw] = get(area, 4);
    x87.fop = u16::from_le_bytes(get(area, 6)) & 0x7ff;
    let pointer = |offset| {
        let value = u64::from_le_bytes(get(area, offset));
        if form.wide { value } else { value & 0xffff_ffff }
    };
    x87.fip = pointer(8);
    x87.fdp = pointer(16);
    for (index, st) in x87.st.iter_mut().enumerate() {
        st[..10].copy_from_slice(&get::<10>(area, ST + 16 * index));
    }
    x87
}

/// Writes the XMM registers that the mode can see.
pub(super) fn put_xmm(state: &FpuState, form: Form, area: &mut [u8]) {
    for (index, zmm) in state.zmm.iter().take(form.registers()).enumerate() {
        put(area, XMM + 16 * index, &zmm.0[..16]);
    }
}

/// Reads the XMM registers that the mode can see.
pub(super) fn get_xmm(state: &mut FpuState, form: Form, area: &[u8]) {
    for (index, zmm) in state.zmm.iter_mut().take(form.registers()).enumerate() {
        zmm.0[..16].copy_from_slice(&get::<16>(area, XMM + 16 * index));
    }
}

/// Writes MXCSR and its mask.
pub(super) fn put_mxcsr(state: &FpuState, area: &mut [u8]) {
    put(area, MXCSR, &state.mxcsr.to_le_bytes());
    put(area, MXCSR + 4, &MXCSR_MASK.to_le_bytes());
}

/// Reads MXCSR.
///
/// # Errors
/// #GP(0) if a reserved bit is set.
pub(super) fn get_mxcsr(area: &[u8]) -> Result<u32, Exception> {
    let mxcsr = u32::from_le_bytes(get(area, MXCSR));
    if mxcsr & !MXCSR_MASK != 0 { Err(Exception::gp(0)) } else { Ok(mxcsr) }
}

/// FXSAVE: writes the first 416 bytes of the image (288 outside 64-bit mode)
/// and leaves the rest of its 512 alone.
pub fn fxsave(state: &FpuState, form: Form, area: &mut [u8; 512]) {
    put_x87(&state.x87, form, area);
    put_mxcsr(state, area);
    put_xmm(state, form, area);
}

/// FXRSTOR: loads an image.
///
/// # Errors
/// #GP(0) if a reserved MXCSR bit is set; nothing is loaded then.
pub fn fxrstor(state: &mut FpuState, form: Form, area: &[u8; 512]) -> Result<(), Exception> {
    state.mxcsr = get_mxcsr(area)?;
    state.x87 = get_x87(area, form);
    get_xmm(state, form, area);
    Ok(())
}
