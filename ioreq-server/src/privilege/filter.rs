//! Sets of system calls, and the seccomp filters made of them.
//!
//! A set names what is let through, by number and by argument; the rest meets the filter's [`Violation`]. Filters only
//! ever add up: a thread that installs a second one keeps what both let through.
#![expect(unsafe_code, reason = "seccomp(2), which no crate installs with its log flag")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use xen_ioreq::Errno;

/// What becomes of a system call that is not in the set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Violation {
    /// The process is killed with SIGSYS, and the kernel logs it. Nothing that an intruder tries can be tried twice.
    #[default]
    Kill,
    /// The call fails with EPERM, and the kernel logs it (`type=1326` in its log or in the audit log). For finding out what
    /// a system's libraries need.
    Refuse,
}

/// A condition on one argument of a system call, of which the kernel looks at the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arg {
    index: u8,
    mask: Option<u32>,
    value: u32,
}

impl Arg {
    /// Argument `index`, 0 to 5, is `value`.
    pub const fn is(index: u8, value: u32) -> Self {
        Self { index, mask: None, value }
    }

    /// The bits of `mask` in argument `index` are those of `value`.
    pub const fn bits(index: u8, mask: u32, value: u32) -> Self {
        Self { index, mask: Some(mask), value }
    }

    fn condition(self) -> Result<SeccompCondition, FilterError> {
        let op = self.mask.map_or(SeccompCmpOp::Eq, |m| SeccompCmpOp::MaskedEq(m.into()));
        Ok(SeccompCondition::new(self.index, SeccompCmpArgLen::Dword, op, self.value.into())?)
    }

    /// That it does not hold.
    fn negated(self) -> Result<SeccompCondition, FilterError> {
        let op = self.mask.map_or(Ok(SeccompCmpOp::Ne), |_| Err(FilterError::Answer))?;
        Ok(SeccompCondition::new(self.index, SeccompCmpArgLen::Dword, op, self.value.into())?)
    }
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let through with any arguments.
    Allowed,
    /// Let through with some arguments. With others it is [`Answered`](Self::Answered) or met by the violation.
    Conditional,
    /// Fails with this error.
    Answered(Errno),
    /// Met by the violation.
    Violation,
}

/// Which system calls, with which arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syscalls {
    /// By number: alternatives, each of which is a number of conditions that all hold. No alternative: any arguments.
    allowed: BTreeMap<i64, BTreeSet<Vec<Arg>>>,
    /// Those that fail with this error, whatever the violation is.
    answered: BTreeMap<i64, i32>,
}

impl Syscalls {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// These too, with any arguments. Numbers are `libc::SYS_*`.
    #[must_use]
    pub fn allow(mut self, numbers: &[i64]) -> Self {
        for number in numbers {
            self.allowed.insert(*number, BTreeSet::new());
        }
        self
    }

    /// This one too, where all of `args` hold (or where it is allowed already).
    #[must_use]
    pub fn allow_if(mut self, number: i64, args: &[Arg]) -> Self {
        if args.is_empty() {
            return self.allow(&[number]);
        }
        match self.allowed.get_mut(&number) {
            // Allowed with any arguments.
            Some(alternatives) if alternatives.is_empty() => {}
            Some(alternatives) => {
                alternatives.insert(args.to_vec());
            }
            None => {
                self.allowed.insert(number, BTreeSet::from([args.to_vec()]));
            }
        }
        self
    }

    /// These fail with `errno` where they are not allowed, in place of the violation: what libraries try of their own
    /// accord, and can do without.
    #[must_use]
    pub fn answer(mut self, numbers: &[i64], errno: Errno) -> Self {
        self.answered.extend(numbers.iter().map(|n| (*n, errno.0)));
        self
    }

    /// The ioctl `request` too, on any descriptor.
    #[must_use]
    pub fn ioctl(self, request: u32) -> Self {
        self.allow_if(libc::SYS_ioctl, &[Arg::is(1, request)])
    }

    /// The ioctl `request` too, on this descriptor alone: on its number, so nothing else may come to have that number.
    #[must_use]
    pub fn ioctl_of(self, fd: &impl AsFd, request: u32) -> Self {
        self.allow_if(libc::SYS_ioctl, &[number_of(fd), Arg::is(1, request)])
    }

    /// What either lets through.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (number, alternatives) in &other.allowed {
            if alternatives.is_empty() {
                self = self.allow(&[*number]);
            }
            for args in alternatives {
                self = self.allow_if(*number, args);
            }
        }
        self.answered.extend(&other.answered);
        self
    }

    /// What becomes of the system call of this number.
    pub fn verdict(&self, number: i64) -> Verdict {
        match (self.allowed.get(&number), self.answered.get(&number)) {
            (Some(alternatives), _) if alternatives.is_empty() => Verdict::Allowed,
            (Some(_), _) => Verdict::Conditional,
            (None, Some(errno)) => Verdict::Answered(Errno(*errno)),
            (None, None) => Verdict::Violation,
        }
    }

    /// The filter of this set.
    pub fn compile(&self, violation: Violation) -> Result<Filter, FilterError> {
        let mut programs = Vec::new();
        // A filter has one answer besides yes, and the kernel takes the strictest of all filters: so one for each error
        // that lets all else through, and the last lets through what the others answer.
        for errno in self.answered.values().copied().collect::<BTreeSet<_>>() {
            let rules = self.answering(errno)?;
            if !rules.is_empty() {
                let action = SeccompAction::Errno(errno.unsigned_abs());
                programs.push(Program { bpf: bpf(rules, SeccompAction::Allow, action)?, log: false });
            }
        }
        let mut rules = Rules::new();
        for (number, alternatives) in &self.allowed {
            let rule = |args: &Vec<Arg>| rule(args.iter().map(|a| a.condition()));
            rules.insert(*number, alternatives.iter().map(rule).collect::<Result<_, _>>()?);
        }
        rules.extend(self.answered.keys().map(|n| (*n, vec![])));
        let otherwise = match violation {
            Violation::Kill => SeccompAction::KillProcess,
            Violation::Refuse => SeccompAction::Errno(Errno::EPERM.0.unsigned_abs()),
        };
        let bpf = bpf(rules, otherwise, SeccompAction::Allow)?;
        programs.push(Program { bpf, log: violation == Violation::Refuse });
        Ok(Filter { programs })
    }

    /// The calls that fail with `errno`: each where none of its alternatives holds.
    fn answering(&self, errno: i32) -> Result<Rules, FilterError> {
        let mut rules = Rules::new();
        for (number, _) in self.answered.iter().filter(|(_, e)| **e == errno) {
            match self.allowed.get(number) {
                None => {
                    rules.insert(*number, vec![]);
                }
                Some(alternatives) if alternatives.is_empty() => {}
                // Of each alternative one condition fails: all ways to pick these.
                Some(alternatives) => {
                    let ways = alternatives.iter().fold(vec![vec![]], |ways: Vec<Vec<Arg>>, args| {
                        let with = |way: &Vec<Arg>| {
                            args.iter().map(|a| [way.as_slice(), &[*a]].concat()).collect::<Vec<_>>()
                        };
                        ways.iter().flat_map(with).collect()
                    });
                    let rule = |way: &Vec<Arg>| rule(way.iter().map(|a| a.negated()));
                    rules.insert(*number, ways.iter().map(rule).collect::<Result<_, _>>()?);
                }
            }
        }
        Ok(rules)
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rule(
    conditions: impl Iterator<Item = Result<SeccompCondition, FilterError>>,
) -> Result<SeccompRule, FilterError> {
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

/// Argument 0 is the number of this descriptor.
pub(super) fn number_of(fd: &impl AsFd) -> Arg {
    Arg::is(0, fd.as_fd().as_raw_fd().unsigned_abs())
}

fn bpf(rules: Rules, otherwise: SeccompAction, action: SeccompAction) -> Result<BpfProgram, FilterError> {
    Ok(SeccompFilter::new(rules, otherwise, action, TargetArch::x86_64)?.try_into()?)
}

/// A filter that could not be made, or not be installed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The set cannot be expressed.
    #[error("a seccomp filter cannot be made: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// A call that is let through by some bits of an argument, and answered with an error otherwise.
    #[error(
        "a seccomp filter cannot be made: a call with a condition on bits cannot have an answer of its own"
    )]
    Answer,
    /// The kernel has refused it.
    #[error("a seccomp filter cannot be installed: {0} (the kernel needs CONFIG_SECCOMP_FILTER)")]
    Install(Errno),
}

/// A filter, ready to be installed.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Installed in this order.
    programs: Vec<Program>,
}

#[derive(Clone, Debug)]
struct Program {
    bpf: BpfProgram,
    log: bool,
}

impl Filter {
    /// Puts the calling thread, and those that it will start, under this filter for good. The thread must have given
    /// up gaining privileges (`no_new_privs`), and be allowed `seccomp` by the filters it is under.
    pub fn install(&self) -> Result<(), FilterError> {
        self.programs.iter().try_for_each(Program::install)
    }

    /// How many filters the kernel counts for it.
    pub fn layers(&self) -> usize {
        self.programs.len()
    }
}

impl Program {
    fn install(&self) -> Result<(), FilterError> {
        let flags = if self.log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
        let len = u16::try_from(self.bpf.len()).map_err(|_| FilterError::Install(Errno::E2BIG))?;
        // The same struct under two names.
        let filter: *mut libc::sock_filter = self.bpf.as_ptr().cast_mut().cast();
        let program = libc::sock_fprog { len, filter };
        // SAFETY: the program has `len` instructions, which the kernel copies and does not change.
        let done = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if done == 0 { Ok(()) } else { Err(FilterError::Install(last_errno())) }
    }
}

/// The calling thread's `errno`.
pub(super) fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(s: &Syscalls, number: i64) -> Option<Vec<Vec<Arg>>> {
        s.allowed.get(&number).map(|a| a.iter().cloned().collect())
    }

    #[test]
    fn any_arguments_stay_allowed_whatever_is_added() {
        let s = Syscalls::none().allow(&[1]).allow_if(1, &[Arg::is(0, 7)]);
        assert_eq!(rules(&s, 1), Some(vec![]));
        let t = Syscalls::none().allow_if(1, &[Arg::is(0, 7)]).allow(&[1]);
        assert_eq!(s, t);
        let narrow = Syscalls::none().allow_if(1, &[Arg::is(0, 7)]);
        assert_eq!(narrow.clone().and(&s), s);
        assert_eq!(s.clone().and(&narrow), s);
    }

    #[test]
    fn alternatives_add_up_and_are_kept_once() {
        let one = Syscalls::none().ioctl(5);
        let two = Syscalls::none().ioctl(6).ioctl(5);
        assert_eq!(
            rules(&one.and(&two), libc::SYS_ioctl),
            Some(vec![vec![Arg::is(1, 5)], vec![Arg::is(1, 6)]])
        );
    }

    #[test]
    fn a_filter_has_a_layer_for_each_error_and_one_for_the_rest() {
        let plain = Syscalls::none().allow(&[0, 1]);
        assert_eq!(plain.compile(Violation::Kill).unwrap().layers(), 1);
        let two = plain.clone().answer(&[2, 3], Errno::EPERM).answer(&[4], Errno::ENOSYS);
        assert_eq!(two.compile(Violation::Refuse).unwrap().layers(), 3);
        // What is allowed is not answered.
        let none = plain.answer(&[0, 1], Errno::EPERM);
        assert_eq!(none.compile(Violation::Kill).unwrap().layers(), 1);
    }

    #[test]
    fn a_call_has_a_verdict() {
        let s = Syscalls::none().allow(&[1]).allow_if(2, &[Arg::is(0, 7)]).answer(&[1, 2, 3], Errno::EPERM);
        assert_eq!(s.verdict(1), Verdict::Allowed);
        assert_eq!(s.verdict(2), Verdict::Conditional);
        assert_eq!(s.verdict(3), Verdict::Answered(Errno::EPERM));
        assert_eq!(s.verdict(4), Verdict::Violation);
    }

    #[test]
    fn what_is_answered_is_what_no_alternative_allows() {
        let both = [Arg::is(0, 7), Arg::is(1, 8)];
        let s = Syscalls::none().allow_if(2, &both).allow_if(2, &[Arg::is(2, 9)]).answer(&[2], Errno::EPERM);
        // not 7 and not 9, or not 8 and not 9
        assert_eq!(s.answering(Errno::EPERM.0).unwrap()[&2].len(), 2);
        assert_eq!(s.compile(Violation::Kill).unwrap().layers(), 2);
        let bits = Syscalls::none().allow_if(2, &[Arg::bits(0, 1, 1)]).answer(&[2], Errno::EPERM);
        assert!(matches!(bits.compile(Violation::Kill), Err(FilterError::Answer)));
    }

    #[test]
    fn an_argument_that_no_call_has_is_an_error() {
        let s = Syscalls::none().allow_if(1, &[Arg::is(6, 0)]);
        assert!(matches!(s.compile(Violation::Kill), Err(FilterError::Compile(_))));
    }
}
