//! What an operator's commands do to a guest's vGPU.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ioreq_server::LoopHandle;
use ioreq_server::sources::Reply;
use mediated_gpu::mediator::{RegisterAccesses, Share, Usage, Vgpu};
use mediated_gpu::physical::Engine;
use mediated_gpu::service::{Slot, SlotError};

use crate::{cli, types as table};

/// A command that takes no words.
pub(super) fn alone(
    mut command: impl FnMut() -> Reply + Send,
) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send {
    move |words, _| if words.is_empty() { command() } else { Err("takes nothing after it".into()) }
}

/// A command of one word about the vGPU, if there is one.
pub(super) fn on_vgpu<F: Fn(&Arc<Vgpu>) + Send>(
    slot: &Arc<Slot>,
    act: F,
) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<F> {
    let slot = slot.clone();
    alone(move || {
        if slot.is_empty() {
            return Err(SlotError::Empty.to_string());
        }
        act(&slot.vgpu());
        Ok(String::new())
    })
}

/// Changes what is named, and keeps the rest.
pub(super) fn share(slot: &Arc<Slot>) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<> {
    let slot = slot.clone();
    move |words, _| {
        let vgpu = slot.vgpu();
        let mut share = vgpu.share();
        for word in words {
            let (name, value) = word.split_once('=').ok_or("write weight=N, cap=PERCENT or deadline_ms=N")?;
            let number = |most: u32| {
                let number = value.parse::<u32>().ok().filter(|n| (1..=most).contains(n));
                number.ok_or_else(|| format!("{name} is a number from 1 to {most}"))
            };
            match name {
                "weight" => share.weight = number(cli::MOST_WEIGHT)?,
                "cap" => share.cap = number(100)?,
                "deadline_ms" => share.deadline = Some(Duration::from_millis(number(60_000)?.into())),
                _ => return Err(format!("{name} is none of weight, cap and deadline_ms")),
            }
        }
        vgpu.set_share(share);
        Ok(String::new())
    }
}

pub(super) fn destroy(slot: &Arc<Slot>) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<> {
    let slot = slot.clone();
    alone(move || slot.destroy().map(|_| String::new()).map_err(|e| e.to_string()))
}

pub(super) fn create(slot: &Arc<Slot>) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<> {
    let slot = slot.clone();
    move |words, _| {
        let kind = match words {
            [] => slot.kind(),
            [name] => name.parse::<cli::Type>()?.0,
            _ => return Err("takes one type".into()),
        };
        slot.create(kind).map(|()| String::new()).map_err(|e| e.to_string())
    }
}

pub(super) fn types(slot: &Arc<Slot>) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<> {
    let slot = slot.clone();
    alone(move || Ok(table::table(|kind| slot.available(kind))))
}

/// Which registers the guest has accessed, a line each: offset, reads, writes, name.
pub(super) fn accesses(slot: &Arc<Slot>) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send + use<> {
    let slot = slot.clone();
    alone(move || {
        let mut out = String::new();
        for RegisterAccesses { offset, name, reads, writes } in slot.vgpu().accesses() {
            let at = offset.map_or_else(|| "-".into(), |at| format!("{at:#08x}"));
            let line = format!("{at:8} {reads:8} {writes:8} {name}");
            out += line.trim_end();
            out.push('\n');
        }
        Ok(out.trim_end().into())
    })
}

/// How it shares each engine with others: what it has had and the most that it may have, in percent.
pub(super) fn shares(vgpu: &Vgpu, out: &mut String) {
    let Share { weight, cap, deadline } = vgpu.share();
    let _ = write!(out, ",\"policy\":\"{}\",\"weight\":{weight},\"cap\":{cap}", vgpu.policy());
    if let Some(deadline) = deadline {
        let _ = write!(out, ",\"deadline_ms\":{}", deadline.as_millis());
    }
    let _ = out.write_str(",\"engines\":{");
    for (n, e) in Engine::ALL.into_iter().enumerate() {
        let Usage { had, of, limit, .. } = vgpu.usage(e);
        let percent = 100.0 * had.as_secs_f64() / of.as_secs_f64().max(1e-9);
        let most = f64::from(limit.unwrap_or(1_000_000)) / 1e4;
        let (comma, name) = (if n > 0 { "," } else { "" }, e.name());
        let _ = write!(out, "{comma}\"{name}\":{{\"percent\":{percent:.2},\"most\":{most:.2}}}");
    }
    let _ = out.write_str("}");
}
