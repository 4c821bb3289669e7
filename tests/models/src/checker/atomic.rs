//! Atomics as in `std`, each a cell of loom's.
//!
//! They can lie in tables of thousands: a cell is taken from a stock when an atomic is first used. All cells of the stock
//! are older than every thread, so taking one tells no thread anything about another; a cell holds the distance from
//! the initial value. Two things that loom leaves out are added, see [`Cell::step`] and [`order`].
#![expect(unsafe_code, reason = "atomics at addresses of shared pages")]
#![expect(clippy::cast_possible_truncation, reason = "a cell holds what its type has put there")]

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use loom::sync::Condvar;
use loom::sync::atomic::fence;

pub(crate) use std::sync::atomic::Ordering;

use super::{Fault, fault_at, go_on, page};

thread_local!(static CELLS: RefCell<Vec<Arc<Cell>>> = const { RefCell::new(Vec::new()) });

/// What holds a value.
pub(super) struct Cell {
    value: loom::sync::atomic::AtomicU64,
    /// Nobody waits for it.
    order: Condvar,
}

impl Cell {
    fn new() -> Self {
        Self { value: loom::sync::atomic::AtomicU64::new(0), order: Condvar::new() }
    }

    /// The value, for one access. loom remembers only the last load of a value, so it misses orders of a store and the loads
    /// before that one (its issues 166 and 392). An access to a second object, on which all depend, has it try them
    /// all.
    fn step(&self) -> &loom::sync::atomic::AtomicU64 {
        go_on();
        self.order.notify_one();
        &self.value
    }
}

/// Fills the stock; called before there are threads.
pub(super) fn refill(cells: usize) {
    CELLS.set((0..cells).map(|_| Arc::new(Cell::new())).collect());
}

pub(super) fn take_cell() -> Arc<Cell> {
    CELLS.with_borrow_mut(Vec::pop).expect("a model says how many atomics it uses")
}

/// Up to 64 bits that change as one: a whole cell, or a part of one.
pub(super) struct Word {
    init: u64,
    cell: OnceLock<Arc<Cell>>,
    shift: u32,
    bits: u32,
}

impl Word {
    const fn new(init: u64) -> Self {
        Self { init, cell: OnceLock::new(), shift: 0, bits: 64 }
    }

    /// A cell of its own.
    pub(super) fn whole(cell: Arc<Cell>) -> Self {
        Self { init: 0, cell: OnceLock::from(cell), shift: 0, bits: 64 }
    }

    /// `bits` bits of a cell that others have parts of.
    pub(super) fn part(cell: Arc<Cell>, shift: u32, bits: u32) -> Self {
        Self { init: 0, cell: OnceLock::from(cell), shift, bits }
    }

    fn cell(&self) -> &Cell {
        self.cell.get_or_init(take_cell)
    }

    fn get(&self, raw: u64) -> u64 {
        if self.bits == 64 { raw.wrapping_add(self.init) } else { raw >> self.shift & ((1 << self.bits) - 1) }
    }

    /// `raw` with `value` in its place.
    fn put(&self, raw: u64, value: u64) -> u64 {
        if self.bits == 64 {
            return value.wrapping_sub(self.init);
        }
        let mask = (1 << self.bits) - 1;
        raw & !(mask << self.shift) | (value & mask) << self.shift
    }

    #[track_caller]
    fn load(&self, order: Ordering) -> u64 {
        let order = self::order(Access::Load, order);
        self.get(self.cell().step().load(loads(order)))
    }

    #[track_caller]
    fn store(&self, value: u64, order: Ordering) {
        let order = self::order(Access::Store, order);
        if self.bits == 64 {
            return self.cell().step().store(self.put(0, value), stores(order));
        }
        // The rest of the cell is another atomic's.
        let _ = self.exchange_loop(order, Ordering::Relaxed, |raw| Some(self.put(raw, value)));
    }

    /// `most` is the largest value of the type. The cell of a narrow one may hold more, where it has wrapped.
    #[track_caller]
    fn compare_exchange(
        &self,
        [old, new]: [u64; 2],
        success: Ordering,
        failure: Ordering,
        most: u64,
    ) -> Result<u64, u64> {
        if most < u64::MAX || torn() {
            return self.update(success, failure, |now| (now & most == old).then_some(new));
        }
        let success = order(Access::Update, success);
        let changed = self.cell().step().compare_exchange(
            self.put(0, old),
            self.put(0, new),
            success,
            weaker(success, loads(failure)),
        );
        changed.map(|raw| self.get(raw)).map_err(|raw| self.get(raw))
    }

    /// Changes the value by `f`, if that gives one. The value before.
    #[track_caller]
    fn update(
        &self,
        success: Ordering,
        failure: Ordering,
        mut f: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        let torn = torn();
        let success = order(Access::Update, success);
        if torn {
            let raw = self.cell().step().load(loads(success));
            let value = self.get(raw);
            self.cell().step().store(self.put(raw, f(value).ok_or(value)?), stores(success));
            return Ok(value);
        }
        let failure = weaker(success, loads(failure));
        let changed = self.exchange_loop(success, failure, |raw| f(self.get(raw)).map(|v| self.put(raw, v)));
        changed.map(|raw| self.get(raw)).map_err(|raw| self.get(raw))
    }

    fn exchange_loop(
        &self,
        success: Ordering,
        failure: Ordering,
        mut f: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        let cell = self.cell();
        let mut raw = cell.step().load(failure);
        while let Some(next) = f(raw) {
            match cell.step().compare_exchange(raw, next, success, failure) {
                Ok(_) => return Ok(raw),
                Err(now) => raw = now,
            }
        }
        Err(raw)
    }

    /// Adds `n`, or takes `n` away; the value before.
    #[track_caller]
    fn add(&self, n: u64, plus: bool, order: Ordering) -> u64 {
        if self.bits < 64 || torn() {
            let sum = |v: u64| if plus { v.wrapping_add(n) } else { v.wrapping_sub(n) };
            return self.update(order, order, |v| Some(sum(v))).unwrap_or_else(|v| v);
        }
        let order = self::order(Access::Update, order);
        let cell = self.cell();
        self.get(if plus { cell.step().fetch_add(n, order) } else { cell.step().fetch_sub(n, order) })
    }

    #[track_caller]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        if self.bits < 64 || torn() {
            return self.update(order, order, |_| Some(value)).unwrap_or_else(|v| v);
        }
        let order = self::order(Access::Update, order);
        self.get(self.cell().step().swap(self.put(0, value), order))
    }
}

#[derive(Clone, Copy)]
enum Access {
    Load,
    Store,
    Update,
}

/// The order in which an access is done. loom takes sequentially consistent accesses for acquire and release; a fence
/// before each, as compilers put it for POWER, gives them their total order.
#[track_caller]
fn order(access: Access, asked: Ordering) -> Ordering {
    let at = Location::caller();
    let relaxed = |fault| match (access, fault) {
        (Access::Load, Fault::RelaxedLoads(file))
        | (Access::Store, Fault::RelaxedStores(file))
        | (Access::Update, Fault::RelaxedUpdates(file)) => Some(file),
        _ => None,
    };
    if fault_at(at, relaxed) {
        return Ordering::Relaxed;
    }
    if asked != Ordering::SeqCst {
        return asked;
    }
    if !fault_at(at, |fault| if let Fault::NoTotalOrder(file) = fault { Some(file) } else { None }) {
        fence(Ordering::SeqCst);
    }
    Ordering::AcqRel
}

#[track_caller]
fn torn() -> bool {
    fault_at(Location::caller(), |fault| if let Fault::TornUpdates(file) = fault { Some(file) } else { None })
}

/// What of an order is a load's.
fn loads(order: Ordering) -> Ordering {
    match order {
        Ordering::Relaxed | Ordering::Release => Ordering::Relaxed,
        _ => Ordering::Acquire,
    }
}

/// What of an order is a store's.
fn stores(order: Ordering) -> Ordering {
    match order {
        Ordering::Relaxed | Ordering::Acquire => Ordering::Relaxed,
        _ => Ordering::Release,
    }
}

/// The order of a failed exchange, where the successful one was made relaxed.
fn weaker(success: Ordering, failure: Ordering) -> Ordering {
    if success == Ordering::Relaxed { Ordering::Relaxed } else { failure }
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        /// As in `std`.
        #[repr(transparent)]
        pub(crate) struct $name(Word);

        impl $name {
            pub(crate) const fn new(v: $int) -> Self {
                Self(Word::new(v as u64))
            }

            /// The atomic at an address of a shared page.
            ///
            /// # Safety
            /// `ptr` points into a [`Memory`](super::Memory) of this execution.
            pub(crate) unsafe fn from_ptr<'a>(ptr: *mut $int) -> &'a Self {
                let word: *const Word = page::word(ptr.addr(), <$int>::BITS);
                // SAFETY: `Self` is a `Word`, and those of pages live as long as the execution.
                unsafe { &*word.cast() }
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                self.0.load(order) as $int
            }

            #[track_caller]
            pub(crate) fn store(&self, v: $int, order: Ordering) {
                self.0.store(v as u64, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, v: $int, order: Ordering) -> $int {
                self.0.swap(v as u64, order) as $int
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let words = [old as u64, new as u64];
                let changed = self.0.compare_exchange(words, success, failure, <$int>::MAX as u64);
                changed.map(|v| v as $int).map_err(|v| v as $int)
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(old, new, success, failure)
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut f: impl FnMut($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                let changed = self.0.update(success, failure, |v| f(v as $int).map(|v| v as u64));
                changed.map(|v| v as $int).map_err(|v| v as $int)
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, n: $int, order: Ordering) -> $int {
                self.0.add(n as u64, true, order) as $int
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, n: $int, order: Ordering) -> $int {
                self.0.add(n as u64, false, order) as $int
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, v: $int, order: Ordering) -> $int {
                self.0.update(order, order, |now| Some(now & v as u64)).unwrap_or_else(|now| now) as $int
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, v: $int, order: Ordering) -> $int {
                self.0.update(order, order, |now| Some(now | v as u64)).unwrap_or_else(|now| now) as $int
            }

            #[track_caller]
            pub(crate) fn fetch_xor(&self, v: $int, order: Ordering) -> $int {
                self.0.update(order, order, |now| Some(now ^ v as u64)).unwrap_or_else(|now| now) as $int
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // A look would be a step of the model.
                f.write_str(stringify!($name))
            }
        }
    };
}

atomic!(AtomicU8, u8);
atomic!(AtomicU16, u16);
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

/// As in `std`.
#[derive(Default)]
pub(crate) struct AtomicBool(AtomicU8);

impl AtomicBool {
    pub(crate) const fn new(v: bool) -> Self {
        Self(AtomicU8::new(v as u8))
    }

    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }

    #[track_caller]
    pub(crate) fn store(&self, v: bool, order: Ordering) {
        self.0.store(u8::from(v), order);
    }

    #[track_caller]
    pub(crate) fn swap(&self, v: bool, order: Ordering) -> bool {
        self.0.swap(u8::from(v), order) != 0
    }
}

/// As in `std`.
pub(crate) struct AtomicPtr<T>(AtomicUsize, PhantomData<fn() -> *mut T>);

impl<T> AtomicPtr<T> {
    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        std::ptr::with_exposed_provenance_mut(self.0.load(order))
    }

    #[track_caller]
    pub(crate) fn store(&self, ptr: *mut T, order: Ordering) {
        self.0.store(ptr.expose_provenance(), order);
    }
}

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self(AtomicUsize::default(), PhantomData)
    }
}
