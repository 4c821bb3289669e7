//! From Xen's 32-bit PVH entry to 64-bit mode: the note, page tables that map the first 16 GiB one to one, a stack,
//! and the entry points of interrupts.
//!
//! Interrupts run on stacks of their own (IST): code built for this target uses the red zone below its stack pointer.
#![expect(unsafe_code, reason = "the first instructions, before there is a stack")]

use core::arch::global_asm;

/// Bytes mapped one to one, RAM and device memory alike.
pub(crate) const MAPPED: u64 = 16 << 30;

global_asm!(
    r#"
.section .note.Xen, "a", @note
.p2align 2
.long 4                 /* name */
.long 4                 /* desc */
.long 18                /* XEN_ELFNOTE_PHYS32_ENTRY */
.asciz "Xen"
.long pvh_start

/* the flat data segment in all that a processor needs one in, the empty one in those of thread pointers */
.macro data_segments
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    xor %eax, %eax
    mov %ax, %fs
    mov %ax, %gs
.endm

.section .text.start, "ax"
.code32
.global pvh_start
pvh_start:
    cld
    mov $stack_top, %esp
    mov %ebx, %ebp      /* start info, for later */
    /* page directories: 16 of 512 entries of 2 MiB */
    mov $page_dirs, %edi
    mov $0x83, %eax
    xor %edx, %edx
    mov $16 * 512, %ecx
1:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    adc $0, %edx
    add $8, %edi
    loop 1b
    mov $pdpt, %edi
    mov $page_dirs + 3, %eax
    mov $16, %ecx
2:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 2b
    mov $pdpt + 3, %eax
    mov %eax, pml4
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax     /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax     /* EFER.LME */
    wrmsr
    mov %cr0, %eax
    and $0xfffffffb, %eax
    or $0x80000003, %eax
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $long_start
.code64
long_start:
    data_segments
    mov $stack_top, %rsp
    mov %ebp, %edi
    xor %ebp, %ebp
    call {main}
    ud2

/* another virtual CPU begins here, in 64-bit mode, with a stack and two arguments; its selectors are Xen's */
.global cpu_start
cpu_start:
    cld
    lgdt boot_gdtr
    pushq $8
    lea 3f(%rip), %rax
    pushq %rax
    lretq
3:  data_segments
    xor %ebp, %ebp
    call {other}
    ud2

/* exceptions: number, then error code, on a stack of their own; they do not return */
.macro exception n, has_error
.p2align 4
    .if \has_error == 0
    push $0
    .endif
    mov $\n, %edi
    jmp exception_common
.endm
.p2align 4
.global exception_stubs
exception_stubs:
.set n, 0
.rept 32
    exception n, ((n == 8) || (n >= 10 && n <= 14) || (n == 17) || (n == 21) || (n == 29) || (n == 30))
    .set n, n + 1
.endr
exception_common:
    pop %rsi            /* error code */
    mov (%rsp), %rdx    /* rip */
    mov %cr2, %rcx
    mov 24(%rsp), %r8   /* rsp */
    cld
    and $-16, %rsp
    call {exception}
    ud2

/* with interrupts on meanwhile */
.global sleep_until_interrupt
sleep_until_interrupt:
    sti
asleep:
    hlt
    cli
    ret

/* An interrupt that came before the hlt is what that would wait for, so it is left out. The sti holds interrupts off until then; but a
   VM exit between the two, and an emulator that does not go back into what it left (QEMU 7.2), would have lost the one tick. */
.macro interrupted
    push %rax
    push %rcx
    push %rdx
    lea asleep(%rip), %rax
    cmp %rax, 24(%rsp)  /* rip */
    jne 1f
    incq 24(%rsp)
1:
.endm
/* interrupts count themselves, in the table of this CPU, whose APIC (x2APIC ID) has twice its number; shift: log2 of the
   table's bytes, less that doubling */
.macro count counters, shift
    interrupted
    mov $0x802, %ecx
    rdmsr
    shl $\shift, %eax
    lea \counters(%rip), %rcx
    lock incl (%rcx, %rax)
.endm
.macro back
    pop %rdx
    pop %rcx
    pop %rax
    iretq
.endm
.macro end_of_interrupt
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
.endm
.global msi_entry
msi_entry:
    count {msis}, 1
    end_of_interrupt
    back
.global tick_entry
tick_entry:
    interrupted
    end_of_interrupt
    back
/* those of lines leave their end to whom they interrupt */
.p2align 6
.global line_stubs
line_stubs:
.set n, 0
.rept 32
.p2align 6
    count {lines}+4*n, 6
    back
.set n, n + 1
.endr
.global spurious_entry
spurious_entry:
    iretq

.section .rodata.boot, "a"
.p2align 3
boot_gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr: .word 23
    .quad boot_gdt

.section .bss.boot, "aw", @nobits
.p2align 12
pml4: .skip 4096
pdpt: .skip 4096
page_dirs: .skip 16 * 4096
.skip 262144
stack_top:
"#,
    main = sym crate::kernel_main,
    other = sym crate::other_main,
    exception = sym crate::cpu::exception,
    msis = sym crate::cpu::MSIS,
    lines = sym crate::cpu::LINES,
    options(att_syntax)
);
