//! A saved vGPU that somebody has changed, and whose file is whole all the same.

use mediated_gpu::saved::SavedGuest;
use serde_json::Value;
use xen_ioreq::PAGE_SHIFT;

/// The same vGPU with each present entry of its table leading so many frames further. `None`: it is no longer a vGPU that a file
/// can hold.
pub fn astray(saved: &SavedGuest, frames: u64) -> Option<SavedGuest> {
    let mut value = serde_json::to_value(saved).ok()?;
    let runs = value.pointer_mut("/vgpu/table")?.as_array_mut()?;
    let entries = runs.iter_mut().filter_map(|run| run.get_mut("entries")?.as_array_mut()).flatten();
    let mut changed = 0;
    for entry in entries {
        let found = entry.as_u64()?;
        if found & 1 != 0 {
            *entry = Value::from(found.checked_add(frames << PAGE_SHIFT)?);
            changed += 1;
        }
    }
    if changed == 0 {
        return None;
    }
    serde_json::from_value(value).ok()
}
