// Access to user memory, with the rights of EL0 (LDTR, STTR) unless it says otherwise. Every instruction that may fault has an
// entry in __ex_table: where to go on when the fault cannot be mended.

.macro guarded to, insn:vararg
9999:
    \insn
    .pushsection __ex_table, "a"
    .balign 4
    .long   9999b - .
    .long   \to - .
    .popsection
.endm

.section .text.uaccess, "ax"
.global __uaccess_start
__uaccess_start:

// x0: destination, x1: source, x2: length, a multiple of 128 and not 0. One of the two is user memory, reached
// with the rights of EL1: PAN is off meanwhile, and the caller checked that the range is user space. (EL1 has
// the rights of EL0 on the pages of programs.) Returns the bytes of the blocks that were not copied whole.
// The vector registers are the program's; a switch to another thread in the middle keeps them.
.arch_extension fp
.arch_extension simd
.global __copy_wide
__copy_wide:
    sub     sp, sp, #128
    stp     q0, q1, [sp]
    stp     q2, q3, [sp, #32]
    stp     q4, q5, [sp, #64]
    stp     q6, q7, [sp, #96]
0:  guarded 1f, ldp q0, q1, [x1], #128
    guarded 1f, ldp q2, q3, [x1, #-96]
    guarded 1f, ldp q4, q5, [x1, #-64]
    guarded 1f, ldp q6, q7, [x1, #-32]
    guarded 1f, stp q0, q1, [x0], #128
    guarded 1f, stp q2, q3, [x0, #-96]
    guarded 1f, stp q4, q5, [x0, #-64]
    guarded 1f, stp q6, q7, [x0, #-32]
    subs    x2, x2, #128
    b.ne    0b
1:  ldp     q0, q1, [sp]
    ldp     q2, q3, [sp, #32]
    ldp     q4, q5, [sp, #64]
    ldp     q6, q7, [sp, #96]
    add     sp, sp, #128
    mov     x0, x2
    ret

// x0: destination, x1: source (user), x2: length. Returns the bytes that were not copied.
// A fault in a wide step goes on bytewise, so that the answer is exact.
.global __copy_from_user
__copy_from_user:
    subs    x2, x2, #64
    b.lo    1f
0:  guarded 7f, ldtr x3, [x1]
    guarded 7f, ldtr x4, [x1, #8]
    guarded 7f, ldtr x5, [x1, #16]
    guarded 7f, ldtr x6, [x1, #24]
    guarded 7f, ldtr x7, [x1, #32]
    guarded 7f, ldtr x8, [x1, #40]
    guarded 7f, ldtr x9, [x1, #48]
    guarded 7f, ldtr x10, [x1, #56]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x0, #32]
    stp     x9, x10, [x0, #48]
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    0b
1:  add     x2, x2, #64                     // what is left, less than 64
    cmp     x2, #16
    b.lo    3f
2:  guarded 8f, ldtr x3, [x1]
    guarded 8f, ldtr x4, [x1, #8]
    stp     x3, x4, [x0], #16
    add     x1, x1, #16
    sub     x2, x2, #16
    cmp     x2, #16
    b.hs    2b
3:  tbz     x2, #3, 4f
    guarded 8f, ldtr x3, [x1]
    str     x3, [x0], #8
    add     x1, x1, #8
    sub     x2, x2, #8
4:  tbz     x2, #2, 5f
    guarded 8f, ldtr w3, [x1]
    str     w3, [x0], #4
    add     x1, x1, #4
    sub     x2, x2, #4
5:  cbz     x2, 6f
8:  guarded 6f, ldtrb w3, [x1]
    strb    w3, [x0], #1
    add     x1, x1, #1
    subs    x2, x2, #1
    b.ne    8b
6:  mov     x0, x2
    ret
7:  add     x2, x2, #64
    b       8b

// x0: destination (user), x1: source, x2: length. Returns the bytes that were not copied.
.global __copy_to_user
__copy_to_user:
    subs    x2, x2, #64
    b.lo    1f
0:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
    guarded 7f, sttr x3, [x0]
    guarded 7f, sttr x4, [x0, #8]
    guarded 7f, sttr x5, [x0, #16]
    guarded 7f, sttr x6, [x0, #24]
    guarded 7f, sttr x7, [x0, #32]
    guarded 7f, sttr x8, [x0, #40]
    guarded 7f, sttr x9, [x0, #48]
    guarded 7f, sttr x10, [x0, #56]
    add     x0, x0, #64
    add     x1, x1, #64
    subs    x2, x2, #64
    b.hs    0b
1:  add     x2, x2, #64
    cmp     x2, #16
    b.lo    3f
2:  ldp     x3, x4, [x1]
    guarded 8f, sttr x3, [x0]
    guarded 8f, sttr x4, [x0, #8]
    add     x0, x0, #16
    add     x1, x1, #16
    sub     x2, x2, #16
    cmp     x2, #16
    b.hs    2b
3:  tbz     x2, #3, 4f
    ldr     x3, [x1]
    guarded 8f, sttr x3, [x0]
    add     x0, x0, #8
    add     x1, x1, #8
    sub     x2, x2, #8
4:  tbz     x2, #2, 5f
    ldr     w3, [x1]
    guarded 8f, sttr w3, [x0]
    add     x0, x0, #4
    add     x1, x1, #4
    sub     x2, x2, #4
5:  cbz     x2, 6f
8:  ldrb    w3, [x1]
    guarded 6f, sttrb w3, [x0]
    add     x0, x0, #1
    add     x1, x1, #1
    subs    x2, x2, #1
    b.ne    8b
6:  mov     x0, x2
    ret
7:  add     x2, x2, #64
    b       8b

// x0: destination (user), x1: length. Returns the bytes that were not zeroed.
.global __clear_user
__clear_user:
    subs    x1, x1, #32
    b.lo    1f
0:  guarded 7f, sttr xzr, [x0]
    guarded 7f, sttr xzr, [x0, #8]
    guarded 7f, sttr xzr, [x0, #16]
    guarded 7f, sttr xzr, [x0, #24]
    add     x0, x0, #32
    subs    x1, x1, #32
    b.hs    0b
1:  add     x1, x1, #32
2:  cmp     x1, #8
    b.lo    3f
    guarded 8f, sttr xzr, [x0]
    add     x0, x0, #8
    sub     x1, x1, #8
    b       2b
3:  cbz     x1, 6f
8:  guarded 6f, sttrb wzr, [x0]
    add     x0, x0, #1
    subs    x1, x1, #1
    b.ne    8b
6:  mov     x0, x1
    ret
7:  add     x1, x1, #32
    b       8b

// x0: destination, x1: source (user), x2: room. Returns the length before the NUL, the room if there is
// no NUL in it, or -1 for a fault. Whole words once the source is aligned: they never cross a page.
.global __strncpy_from_user
__strncpy_from_user:
    mov     x3, x0
    mov     x7, #0x0101010101010101
0:  tst     x1, #7
    b.eq    1f
    cbz     x2, 3f
    guarded 4f, ldtrb w4, [x1]
    strb    w4, [x0]
    cbz     w4, 3f
    add     x0, x0, #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       0b
1:  cmp     x2, #8
    b.lo    2f
    guarded 4f, ldtr x4, [x1]
    sub     x5, x4, x7
    bic     x5, x5, x4
    ands    x5, x5, #0x8080808080808080     // marks the first zero byte (and maybe some after it)
    str     x4, [x0]
    b.ne    5f
    add     x0, x0, #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       1b
2:  cbz     x2, 3f
    guarded 4f, ldtrb w4, [x1]
    strb    w4, [x0]
    cbz     w4, 3f
    add     x0, x0, #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       2b
3:  sub     x0, x0, x3
    ret
4:  mov     x0, #-1
    ret
5:  rev     x5, x5
    clz     x5, x5
    add     x0, x0, x5, lsr #3
    b       3b

// x0: address (user). Returns the word, or -1 for a fault.
.global __load_user_u32
__load_user_u32:
    guarded 0f, ldtr w0, [x0]
    ret
0:  mov     x0, #-1
    ret

// x0: address (user, checked to be below TASK_SIZE), w1: old, w2: new. Returns what was there, or -1 for
// a fault. There is no exclusive access with the rights of EL0: PAN is off meanwhile (the caller's), and
// a read-only page faults here as it does there.
.global __cmpxchg_user_u32
__cmpxchg_user_u32:
    mov     x3, x0
0:  guarded 2f, ldaxr w0, [x3]
    cmp     w0, w1
    b.ne    1f
    guarded 2f, stlxr w4, w2, [x3]
    cbnz    w4, 0b
    dmb     ish
    ret
1:  clrex
    ret
2:  mov     x0, #-1
    ret

.global __uaccess_end
__uaccess_end:
