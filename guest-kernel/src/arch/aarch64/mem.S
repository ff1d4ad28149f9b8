// memcpy, memmove, memset and memcmp for the kernel, and whole pages. The kernel is built without
// floating-point registers, so pairs of general registers are the widest step. Unaligned accesses are
// fine: all memory that these touch is Normal.

.section .text.mem, "ax"

.global memmove
.global memcpy
// x0: destination, x1: source, x2: length; returns x0.
memmove:
    sub     x3, x0, x1
    cmp     x3, x2
    b.lo    move_backward                   // the destination starts inside the source
memcpy:
    mov     x3, x0
    cmp     x2, #64
    b.hi    4f
copy_up_to_64:                              // to x3. All loads come before the first store.
    cmp     x2, #16
    b.lo    2f
    add     x4, x1, x2
    add     x5, x3, x2
    ldp     x6, x7, [x1]
    ldp     x8, x9, [x4, #-16]
    cmp     x2, #32
    b.ls    0f
    ldp     x10, x11, [x1, #16]
    ldp     x12, x13, [x4, #-32]
    stp     x10, x11, [x3, #16]
    stp     x12, x13, [x5, #-32]
0:  stp     x6, x7, [x3]
    stp     x8, x9, [x5, #-16]
    ret
2:  add     x4, x1, x2                      // less than 16
    add     x5, x3, x2
    tbz     x2, #3, 0f
    ldr     x6, [x1]
    ldr     x7, [x4, #-8]
    str     x6, [x3]
    str     x7, [x5, #-8]
    ret
0:  tbz     x2, #2, 0f
    ldr     w6, [x1]
    ldr     w7, [x4, #-4]
    str     w6, [x3]
    str     w7, [x5, #-4]
    ret
0:  cbz     x2, 1f
    lsr     x9, x2, #1
    ldrb    w6, [x1]
    ldrb    w7, [x1, x9]
    ldrb    w8, [x4, #-1]
    strb    w6, [x3]
    strb    w7, [x3, x9]
    strb    w8, [x5, #-1]
1:  ret
4:  ldp     x6, x7, [x1]
    ldp     x8, x9, [x1, #16]
    ldp     x10, x11, [x1, #32]
    ldp     x12, x13, [x1, #48]
    add     x1, x1, #64
    stp     x6, x7, [x3]
    stp     x8, x9, [x3, #16]
    stp     x10, x11, [x3, #32]
    stp     x12, x13, [x3, #48]
    add     x3, x3, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hi    4b
    b       copy_up_to_64

move_backward:
    mov     x3, x0
    cmp     x2, #64
    b.ls    copy_up_to_64
    add     x4, x1, x2
    add     x5, x0, x2
0:  ldp     x6, x7, [x4, #-16]
    ldp     x8, x9, [x4, #-32]
    ldp     x10, x11, [x4, #-48]
    ldp     x12, x13, [x4, #-64]
    sub     x4, x4, #64
    stp     x6, x7, [x5, #-16]
    stp     x8, x9, [x5, #-32]
    stp     x10, x11, [x5, #-48]
    stp     x12, x13, [x5, #-64]
    sub     x5, x5, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hi    0b
    b       copy_up_to_64                   // the first 64 or less

// x0: destination, w1: byte, x2: length; returns x0.
.global memset
memset:
    and     x1, x1, #0xff
    mov     x3, #0x0101010101010101
    mul     x1, x1, x3
    add     x5, x0, x2
    cmp     x2, #16
    b.lo    2f
    mov     x3, x0
    cmp     x2, #64
    b.lo    1f
0:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    stp     x1, x1, [x3, #32]
    stp     x1, x1, [x3, #48]
    add     x3, x3, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hs    0b
1:  cmp     x2, #16
    b.lo    3f
    stp     x1, x1, [x3], #16
    sub     x2, x2, #16
    b       1b
3:  cbz     x2, 4f
    stp     x1, x1, [x5, #-16]
4:  ret
2:  tbz     x2, #3, 0f
    str     x1, [x0]
    str     x1, [x5, #-8]
    ret
0:  tbz     x2, #2, 0f
    str     w1, [x0]
    str     w1, [x5, #-4]
    ret
0:  cbz     x2, 1f
    lsr     x3, x2, #1
    strb    w1, [x0]
    strb    w1, [x0, x3]
    strb    w1, [x5, #-1]
1:  ret

// x0, x1: what to compare, x2: length; returns a number with the sign of the first difference.
.global memcmp
.global bcmp
memcmp:
bcmp:
0:  cmp     x2, #8
    b.lo    2f
    ldr     x3, [x0], #8
    ldr     x4, [x1], #8
    sub     x2, x2, #8
    cmp     x3, x4
    b.eq    0b
    rev     x3, x3
    rev     x4, x4
    cmp     x3, x4
    cset    w0, hi
    csinv   w0, w0, wzr, hs
    ret
2:  cbz     x2, 4f
    ldrb    w3, [x0], #1
    ldrb    w4, [x1], #1
    sub     x2, x2, #1
    subs    w5, w3, w4
    b.eq    2b
    mov     w0, w5
    ret
4:  mov     w0, wzr
    ret

// x0: page. Zeros it.
.global __clear_page
__clear_page:
    mrs     x1, dczid_el0
    add     x2, x0, #4096
    tbnz    x1, #4, 2f
    and     x1, x1, #0xf
    cmp     x1, #4                          // blocks of 64 bytes, as nearly everywhere
    b.ne    1f
0:
.rept 8
    dc      zva, x0
    add     x0, x0, #64
.endr
    cmp     x0, x2
    b.lo    0b
    ret
1:  mov     x3, #4
    lsl     x3, x3, x1
0:  dc      zva, x0
    add     x0, x0, x3
    cmp     x0, x2
    b.lo    0b
    ret
2:  stp     xzr, xzr, [x0], #16
    cmp     x0, x2
    b.lo    2b
    ret

// x0: destination page, x1: source page. The widest registers are a program's, so they are kept on the
// stack meanwhile. The caller forbids preemption: a kernel thread's would not be switched.
.arch_extension simd
.global __copy_page
__copy_page:
    stp     q0, q1, [sp, #-128]!
    stp     q2, q3, [sp, #32]
    stp     q4, q5, [sp, #64]
    stp     q6, q7, [sp, #96]
    add     x2, x1, #4096
0:
.irp at, 0, 128
    ldp     q0, q1, [x1, #\at]
    ldp     q2, q3, [x1, #\at + 32]
    ldp     q4, q5, [x1, #\at + 64]
    ldp     q6, q7, [x1, #\at + 96]
    stp     q0, q1, [x0, #\at]
    stp     q2, q3, [x0, #\at + 32]
    stp     q4, q5, [x0, #\at + 64]
    stp     q6, q7, [x0, #\at + 96]
.endr
    add     x1, x1, #256
    add     x0, x0, #256
    cmp     x1, x2
    b.lo    0b
    ldp     q2, q3, [sp, #32]
    ldp     q4, q5, [sp, #64]
    ldp     q6, q7, [sp, #96]
    ldp     q0, q1, [sp], #128
    ret
.arch_extension nosimd
