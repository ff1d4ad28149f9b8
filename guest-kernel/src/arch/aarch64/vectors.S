// The sixteen exception entries, the ways back, and the first steps of a new thread.
// PtRegs is laid out as in arch/thread.rs (checked there).

.equ S_SIZE, 304
.equ S_LR, 240
.equ S_PC, 256
.equ S_ORIG_X0, 272
.equ S_FRAME, 288

.macro save_general
    stp     x0, x1, [sp, #16 * 0]
    stp     x2, x3, [sp, #16 * 1]
    stp     x4, x5, [sp, #16 * 2]
    stp     x6, x7, [sp, #16 * 3]
    stp     x8, x9, [sp, #16 * 4]
    stp     x10, x11, [sp, #16 * 5]
    stp     x12, x13, [sp, #16 * 6]
    stp     x14, x15, [sp, #16 * 7]
    stp     x16, x17, [sp, #16 * 8]
    stp     x18, x19, [sp, #16 * 9]
    stp     x20, x21, [sp, #16 * 10]
    stp     x22, x23, [sp, #16 * 11]
    stp     x24, x25, [sp, #16 * 12]
    stp     x26, x27, [sp, #16 * 13]
    stp     x28, x29, [sp, #16 * 14]
.endm

.macro restore_general
    ldp     x0, x1, [sp, #16 * 0]
    ldp     x2, x3, [sp, #16 * 1]
    ldp     x4, x5, [sp, #16 * 2]
    ldp     x6, x7, [sp, #16 * 3]
    ldp     x8, x9, [sp, #16 * 4]
    ldp     x10, x11, [sp, #16 * 5]
    ldp     x12, x13, [sp, #16 * 6]
    ldp     x14, x15, [sp, #16 * 7]
    ldp     x16, x17, [sp, #16 * 8]
    ldp     x18, x19, [sp, #16 * 9]
    ldp     x20, x21, [sp, #16 * 10]
    ldp     x22, x23, [sp, #16 * 11]
    ldp     x24, x25, [sp, #16 * 12]
    ldp     x26, x27, [sp, #16 * 13]
    ldp     x28, x29, [sp, #16 * 14]
    ldr     x30, [sp, #S_LR]
.endm

// After save_general: the stack pointer in x21, then what the exception left in system registers.
.macro save_special
    mrs     x22, elr_el1
    mrs     x23, spsr_el1
    mrs     x24, esr_el1
    mov     x25, #-1                        // syscallno: none
    bfi     x25, x24, #32, #32              // esr
    stp     x30, x21, [sp, #S_LR]
    stp     x22, x23, [sp, #S_PC]
    stp     x0, x25, [sp, #S_ORIG_X0]
.endm

// Entry from EL0: sp is the top of the thread's kernel stack.
.macro el0_entry handler
    sub     sp, sp, #S_SIZE
    save_general
    mrs     x21, sp_el0
    save_special
    stp     xzr, xzr, [sp, #S_FRAME]        // the last frame of a backtrace
    add     x29, sp, #S_FRAME
    mov     x0, sp
    bl      \handler
    b       ret_to_user
.endm

// Entry from EL1, room for the registers already made.
.macro el1_entry handler
    save_general
    add     x21, sp, #S_SIZE
    save_special
    stp     x29, x22, [sp, #S_FRAME]
    add     x29, sp, #S_FRAME
    mov     x0, sp
    bl      \handler
    b       ret_to_kernel
.endm

// An entry that is never taken on a machine in order: registers are kept for the report.
.macro bad_entry number
    sub     sp, sp, #S_SIZE
    save_general
    add     x21, sp, #S_SIZE
    save_special
    stp     x29, x22, [sp, #S_FRAME]
    add     x29, sp, #S_FRAME
    mov     x0, sp
    mov     w1, #\number
    bl      trap_error
    b       .
.endm

// A valid kernel stack pointer has the bit of weight KERNEL_STACK_SIZE clear (arch::KERNEL_STACK_ALIGN);
// look at it without a free register, before anything is pushed.
.macro el1_vector target
    .balign 128
    sub     sp, sp, #S_SIZE
    add     sp, sp, x0                      // sp' = sp + x0
    sub     x0, sp, x0                      // x0' = sp
    tbnz    x0, #{stack_shift}, stack_overflow
    sub     x0, sp, x0                      // x0
    sub     sp, sp, x0                      // sp
    b       \target
.endm

.macro vector target
    .balign 128
    b       \target
.endm

.section .text.vectors, "ax"
.balign 2048
.global vectors
vectors:
    vector  bad_el1t
    vector  bad_el1t
    vector  bad_el1t
    vector  bad_el1t
    el1_vector el1_sync
    el1_vector el1_irq
    vector  bad_fiq
    vector  bad_serror
    vector  el0_sync
    vector  el0_irq
    vector  bad_fiq
    vector  bad_serror
    vector  bad_aarch32
    vector  bad_aarch32
    vector  bad_fiq
    vector  bad_serror
.balign 128

el0_sync:
    el0_entry trap_el0_sync
el0_irq:
    el0_entry trap_el0_irq
el1_sync:
    el1_entry trap_el1_sync
el1_irq:
    el1_entry trap_el1_irq
bad_serror:
    bad_entry 0
bad_fiq:
    bad_entry 1
bad_el1t:
    msr     spsel, #1
    bad_entry 2
bad_aarch32:
    bad_entry 3

// sp = overflowed sp + x0, x0 = overflowed sp (room for PtRegs subtracted). The machine dies here, so
// the program's thread registers may serve as scratch.
stack_overflow:
    msr     tpidrro_el0, x0
    sub     x0, sp, x0
    msr     tpidr_el0, x0
    adrp    x0, __emergency_stack_top
    sub     x0, x0, #S_SIZE
    mov     sp, x0
    mrs     x0, tpidr_el0
    save_general
    mrs     x21, tpidrro_el0
    add     x21, x21, #S_SIZE
    save_special
    stp     x29, x22, [sp, #S_FRAME]
    add     x29, sp, #S_FRAME
    mov     x0, sp
    mov     w1, #4
    bl      trap_error
    b       .

.global ret_to_user
ret_to_user:
    msr     daifset, #2
    mrs     x1, tpidr_el1
    ldr     w2, [x1]                        // ThreadInfo.flags
    mov     w3, #{exit_work}
    tst     w2, w3
    b.ne    1f
    ldr     x21, [sp, #S_LR + 8]
    ldp     x22, x23, [sp, #S_PC]
    msr     sp_el0, x21
    msr     elr_el1, x22
    msr     spsr_el1, x23
    restore_general
    add     sp, sp, #S_SIZE
    eret
1:  mov     x0, sp
    bl      exit_to_user_work
    b       ret_to_user

ret_to_kernel:
    ldp     x22, x23, [sp, #S_PC]
    msr     elr_el1, x22
    msr     spsr_el1, x23
    restore_general
    add     sp, sp, #S_SIZE
    eret

// x0: thread that stops, x1: thread that goes on. Returns, on the other stack, the thread that stopped.
.global cpu_switch_to
cpu_switch_to:
    // What the program's cache maintenance began ends here, in case it goes on elsewhere; and a store by
    // another CPU that misses this switch (membarrier, a signal) is seen by what runs next.
    dsb     ish
    add     x8, x0, #{context}
    mov     x9, sp
    stp     x19, x20, [x8, #16 * 0]
    stp     x21, x22, [x8, #16 * 1]
    stp     x23, x24, [x8, #16 * 2]
    stp     x25, x26, [x8, #16 * 3]
    stp     x27, x28, [x8, #16 * 4]
    stp     x29, x9, [x8, #16 * 5]
    str     x30, [x8, #16 * 6]
    add     x8, x1, #{context}
    ldp     x19, x20, [x8, #16 * 0]
    ldp     x21, x22, [x8, #16 * 1]
    ldp     x23, x24, [x8, #16 * 2]
    ldp     x25, x26, [x8, #16 * 3]
    ldp     x27, x28, [x8, #16 * 4]
    ldp     x29, x9, [x8, #16 * 5]
    ldr     x30, [x8, #16 * 6]
    mov     sp, x9
    msr     tpidr_el1, x1
    ret

// Where a new thread begins. x0: the thread that ran before it. x19: the function of a kernel thread, or
// 0; x20: its argument. A function that returns goes to EL0, with the registers at the stack's top.

.global ret_from_fork
ret_from_fork:
    bl      schedule_tail
    cbz     x19, 0f
    mov     x0, x20
    blr     x19
0:  b       ret_to_user

// x0: top of a stack that nobody uses, x1: a function, which is called on it. Frame records go on across
// the two stacks, so that a backtrace does.
.global call_on_stack
call_on_stack:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    mov     sp, x0
    blr     x1
    mov     sp, x29
    ldp     x29, x30, [sp], #16
    ret

// x0: FpState.
.arch_extension fp
.arch_extension simd
.global fp_save
fp_save:
    stp     q0, q1, [x0, #32 * 0]
    stp     q2, q3, [x0, #32 * 1]
    stp     q4, q5, [x0, #32 * 2]
    stp     q6, q7, [x0, #32 * 3]
    stp     q8, q9, [x0, #32 * 4]
    stp     q10, q11, [x0, #32 * 5]
    stp     q12, q13, [x0, #32 * 6]
    stp     q14, q15, [x0, #32 * 7]
    stp     q16, q17, [x0, #32 * 8]
    stp     q18, q19, [x0, #32 * 9]
    stp     q20, q21, [x0, #32 * 10]
    stp     q22, q23, [x0, #32 * 11]
    stp     q24, q25, [x0, #32 * 12]
    stp     q26, q27, [x0, #32 * 13]
    stp     q28, q29, [x0, #32 * 14]
    stp     q30, q31, [x0, #32 * 15]
    mrs     x1, fpsr
    mrs     x2, fpcr
    add     x0, x0, #512
    stp     w1, w2, [x0]
    ret

.global fp_load
fp_load:
    ldp     q0, q1, [x0, #32 * 0]
    ldp     q2, q3, [x0, #32 * 1]
    ldp     q4, q5, [x0, #32 * 2]
    ldp     q6, q7, [x0, #32 * 3]
    ldp     q8, q9, [x0, #32 * 4]
    ldp     q10, q11, [x0, #32 * 5]
    ldp     q12, q13, [x0, #32 * 6]
    ldp     q14, q15, [x0, #32 * 7]
    ldp     q16, q17, [x0, #32 * 8]
    ldp     q18, q19, [x0, #32 * 9]
    ldp     q20, q21, [x0, #32 * 10]
    ldp     q22, q23, [x0, #32 * 11]
    ldp     q24, q25, [x0, #32 * 12]
    ldp     q26, q27, [x0, #32 * 13]
    ldp     q28, q29, [x0, #32 * 14]
    ldp     q30, q31, [x0, #32 * 15]
    add     x0, x0, #512
    ldp     w1, w2, [x0]
    msr     fpsr, x1
    msr     fpcr, x2
    ret
