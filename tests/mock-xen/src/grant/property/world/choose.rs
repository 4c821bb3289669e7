//! What happens next, likely or not to succeed.

use fastrand::Rng;

use super::super::naive::{Ask, CELLS, CopyAsk, Dom, End, Entry, Kind, RESERVED};
use super::{PLACES, REFS, Step, TRANSLATED, World};
use crate::grant::tests::FRAMES;

impl World {
    pub(in super::super) fn choose(&self, rng: &mut Rng) -> Step {
        let step = self.any(rng);
        let call = matches!(
            step,
            Step::Map(..)
                | Step::Unmap(_)
                | Step::Copy(_)
                | Step::Transfer(..)
                | Step::Revoke(..)
                | Step::Swap(..)
        );
        if call && rng.u8(..12) == 0 { Step::Failing(Box::new(step)) } else { step }
    }

    fn any(&self, rng: &mut Rng) -> Step {
        let living: Vec<Dom> = (0..3).filter(|d| self.alive(*d)).collect();
        let who = living[rng.usize(..living.len())];
        let any = rng.usize(..3);
        // 300 is in a table of version 1 only.
        let reference = if rng.u8(..20) == 0 { [300, 512][rng.usize(..2)] } else { rng.u32(REFS) };
        let gfn = rng.u64(..FRAMES + 1);
        match rng.u8(..100) {
            0..20 => self.grant(rng, who, any, gfn),
            20..42 => self.mappings(rng, who, any, reference),
            42..56 => self.unmappings(rng).unwrap_or(Step::Balloon(who, gfn)),
            56..70 => Step::Copy(self.some_copy(rng, who)),
            70..73 => Step::Transfer(who, gfn, any, reference),
            73..78 => Step::Close(who, rng.u32(REFS)),
            78..86 => Step::Revoke(who, reference),
            86..88 => {
                Step::Swap(who, rng.u32(RESERVED..12), if reference < RESERVED { 9 } else { reference })
            }
            88..91 => Step::SetVersion(who, rng.bool(), rng.u8(..4) == 0),
            91..93 => match (0..self.mfns.len()).find(|page| self.naive.pages[*page].table) {
                Some(page) if rng.bool() => Step::UnpinTable(page),
                _ => Step::PinTable(who, gfn),
            },
            93..95 => Step::Balloon(who, gfn),
            95..98 => match self.some_mapping(rng) {
                Some(i) => Step::Write(i, rng.usize(..CELLS), rng.u8(100..)),
                None => Step::Close(who, rng.u32(REFS)),
            },
            98 if who != TRANSLATED => Step::KillProcess(who),
            _ if living.len() > 1 && rng.bool() => Step::Die(who),
            _ => Step::Balloon(who, gfn),
        }
    }

    fn some_mapping(&self, rng: &mut Rng) -> Option<usize> {
        let open: Vec<usize> = (0..self.handles.len())
            .filter(|i| self.alive(self.naive.maps[*i].by) && !self.naive.maps[*i].ended)
            .collect();
        (!open.is_empty()).then(|| open[rng.usize(..open.len())])
    }

    fn grant(&self, rng: &mut Rng, who: Dom, to: Dom, gfn: u64) -> Step {
        let second = self.naive.doms[who].second_version;
        let reference = rng.u32(REFS);
        let kind = match rng.u8(..10) {
            0 if reference >= RESERVED => Kind::Accept,
            1..4 if second => self.hand_on(rng, who),
            _ => Kind::Access,
        };
        let access = kind == Kind::Access;
        let part = (access && second && rng.u8(..5) == 0).then(|| (rng.usize(..CELLS), rng.usize(..=CELLS)));
        let readonly = rng.u8(..3) == 0 && kind != Kind::Accept;
        let revokable = if access { rng.bool() } else { kind != Kind::Accept && rng.u8(..6) == 0 };
        Step::Grant(who, reference, Entry { kind, to, gfn, readonly, revokable, part, taken: false })
    }

    /// Most of the time what was granted to who hands it on, or handed on to it.
    fn hand_on(&self, rng: &mut Rng, who: Dom) -> Kind {
        let theirs: Vec<(Dom, u32)> = (0..3)
            .flat_map(|d| self.naive.doms[d].entries.iter().map(move |(r, e)| (d, *r, *e)))
            .filter(|(_, _, e)| e.to == who && matches!(e.kind, Kind::Access | Kind::HandedOn(..)))
            .map(|(d, r, _)| (d, r))
            .collect();
        let any = (rng.usize(..3), rng.u32(REFS));
        let (whose, reference) = match rng.u8(..4) {
            1.. if !theirs.is_empty() => theirs[rng.usize(..theirs.len())],
            _ => any,
        };
        Kind::HandedOn(whose, reference)
    }

    /// One or several, most of the time as the entry says.
    fn mappings(&self, rng: &mut Rng, by: Dom, granter: Dom, reference: u32) -> Step {
        let first = self.mapping(rng, by, granter, reference, &[]);
        let mut asks = vec![first];
        while asks.len() < 6 && rng.u8(..3) == 0 {
            let (granter, reference) = (rng.usize(..3), rng.u32(REFS));
            let next = self.mapping(rng, first.by, granter, reference, &asks);
            // One call is of one domain and of one kind.
            if (next.by, next.lgfn.is_some()) == (first.by, first.lgfn.is_some()) {
                asks.push(next);
            }
        }
        let given = if rng.u8(..10) == 0 { rng.usize(..asks.len()) } else { asks.len() };
        Step::Map(asks, given)
    }

    fn mapping(&self, rng: &mut Rng, by: Dom, granter: Dom, reference: u32, before: &[Ask]) -> Ask {
        let granted: Vec<(Dom, u32, Entry)> = (0..3)
            .flat_map(|d| self.naive.doms[d].entries.iter().map(move |(r, e)| (d, *r, *e)))
            .filter(|(_, _, e)| e.kind == Kind::Access && self.alive(e.to))
            .collect();
        let lgfn = rng.u64(..FRAMES + 1);
        let (by, granter, reference, revokable, readonly) = if rng.u8(..4) > 0 && !granted.is_empty() {
            let (granter, reference, e) = granted[rng.usize(..granted.len())];
            (e.to, granter, reference, e.revokable, e.readonly || rng.bool())
        } else {
            (by, granter, reference, rng.bool(), rng.bool())
        };
        let lgfn = revokable.then_some(lgfn);
        let live = self.naive.maps.iter().filter(|m| m.by == by && !m.ended).filter_map(|m| m.place);
        let taken: Vec<u64> = live.chain(before.iter().filter_map(|a| a.place)).collect();
        let place = (0..PLACES).find(|p| !taken.contains(p)).filter(|_| rng.u8(..6) != 0);
        let device = rng.u8(..4) == 0;
        Ask { by, granter, reference, readonly, place, device, lgfn }
    }

    fn unmappings(&self, rng: &mut Rng) -> Option<Step> {
        let first = self.some_mapping(rng)?;
        let by = self.naive.maps[first].by;
        let mut all = vec![(first, rng.u8(..4) != 0, rng.u8(..4) != 0)];
        for i in 0..self.handles.len() {
            let m = self.naive.maps[i];
            if m.by == by && !m.ended && i != first && rng.u8(..4) == 0 {
                all.push((i, rng.bool(), rng.bool()));
            }
        }
        Some(Step::Unmap(all))
    }

    /// Most of the time by what somebody has granted.
    fn some_copy(&self, rng: &mut Rng, by: Dom) -> CopyAsk {
        let granted: Vec<End> = (0..3)
            .flat_map(|d| self.naive.doms[d].entries.iter().map(move |(r, e)| (End::Ref(d, *r), e.to)))
            .filter(|(_, to)| *to == by)
            .map(|(end, _)| end)
            .collect();
        let end = |rng: &mut Rng| match rng.u8(..6) {
            0 => End::Ref(rng.usize(..3), rng.u32(REFS)),
            1..4 if !granted.is_empty() => granted[rng.usize(..granted.len())],
            _ => End::Own(rng.u64(..FRAMES + 1)),
        };
        let (source, dest) = (end(rng), end(rng));
        let (from, to, cells) = (rng.usize(..CELLS), rng.usize(..CELLS), rng.usize(..=CELLS));
        CopyAsk { by, source, from, dest, to, cells: if rng.bool() { cells } else { 1 } }
    }
}
