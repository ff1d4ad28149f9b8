// Keeping a CPU's context in memory, and going on with it: on this machine, or in another one that was
// started with the same memory. See suspend.rs.

.section .text.suspend, "ax"

// x0: `Context`, x1: what to call once it is saved. Returns in each machine that goes on: with -1 after
// that function returned, or with the device tree's address (or 0) out of `cpu_resume`.
.global cpu_suspend
cpu_suspend:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    stp     x19, x20, [x0, #16 * 0]
    stp     x21, x22, [x0, #16 * 1]
    stp     x23, x24, [x0, #16 * 2]
    stp     x25, x26, [x0, #16 * 3]
    stp     x27, x28, [x0, #16 * 4]
    str     x29, [x0, #16 * 5]
    blr     x1
    mov     x0, #-1
    ldp     x29, x30, [sp], #16
    ret

// Entered from outside with the MMU off, at EL2 or EL1. x0: physical address of the device tree, or 0. The
// way up is a secondary CPU's, which keeps x24.
.global thaw_entry
thaw_entry:
    mov     x24, x0
    adrp    x0, {thaw_start}
    add     x0, x0, :lo12:{thaw_start}
    b       secondary_entry

// Where that way ends, with the MMU on.
.global cpu_resume
cpu_resume:
    mov     x0, x24
    adrp    x1, {context}
    add     x1, x1, :lo12:{context}
    ldp     x19, x20, [x1, #16 * 0]
    ldp     x21, x22, [x1, #16 * 1]
    ldp     x23, x24, [x1, #16 * 2]
    ldp     x25, x26, [x1, #16 * 3]
    ldp     x27, x28, [x1, #16 * 4]
    ldr     x2, [x1, #16 * 5]
    mov     sp, x2
    ldp     x29, x30, [sp], #16
    ret
