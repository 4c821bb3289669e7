//! A GPU that stands before another one, in few lines.

/// In an `impl PhysicalGpu` of what stands before another GPU: the methods that are named are that one's.
///
/// `delegate_gpu!(gpu: read32, write32);` has them done by `self.gpu`. What is not named is for the implementation to write; the
/// compiler tells of a method that it has forgotten, but for those that have a body in the trait.
#[macro_export]
macro_rules! delegate_gpu {
    ($to:ident: $($method:ident),+ $(,)?) => {
        $($crate::delegate_gpu!(@$method $to);)+
    };
    (@read32 $to:ident) => { $crate::delegate_gpu!(# $to read32(offset: u32) -> u32); };
    (@write32 $to:ident) => { $crate::delegate_gpu!(# $to write32(offset: u32, value: u32) -> ()); };
    (@ggtt_entries $to:ident) => { $crate::delegate_gpu!(# $to ggtt_entries() -> u32); };
    (@ggtt_write $to:ident) => {
        $crate::delegate_gpu!(# $to ggtt_write(index: u32, bfn: Option<::xen_ioreq::Bfn>) -> ());
    };
    (@ggtt_read $to:ident) => {
        $crate::delegate_gpu!(# $to ggtt_read(index: u32) -> Option<::xen_ioreq::Bfn>);
    };
    (@ggtt_flush $to:ident) => { $crate::delegate_gpu!(# $to ggtt_flush() -> ()); };
    (@submit $to:ident) => {
        $crate::delegate_gpu!(
            # $to submit(engine: $crate::physical::Engine, first: u64, second: Option<u64>) -> ()
        );
    };
    (@take_csb $to:ident) => {
        $crate::delegate_gpu!(
            # $to take_csb(engine: $crate::physical::Engine) -> Vec<$crate::physical::CsbEntry>
        );
    };
    (@is_idle $to:ident) => {
        $crate::delegate_gpu!(# $to is_idle(engine: $crate::physical::Engine) -> bool);
    };
    (@reset_engine $to:ident) => {
        $crate::delegate_gpu!(
            # $to reset_engine(engine: $crate::physical::Engine, deadline: ::std::time::Duration)
                -> Result<(), $crate::physical::ResetFailed>
        );
    };
    (@has_fast_copy $to:ident) => { $crate::delegate_gpu!(# $to has_fast_copy() -> bool); };
    (@set_interrupt_sink $to:ident) => {
        $crate::delegate_gpu!(
            # $to set_interrupt_sink(sink: ::std::sync::Arc<dyn $crate::physical::InterruptSink>) -> ()
        );
    };
    (# $to:ident $method:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        fn $method(&self, $($arg: $type),*) -> $result {
            self.$to.$method($($arg),*)
        }
    };
}
