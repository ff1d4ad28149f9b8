// From the loader's entry point to `kernel_start`: the Image header, the way down to EL1, the first
// tables, the MMU. See boot.rs for the state that each step leaves.

.section .head.text, "ax"
.global _head
_head:
    b       primary_entry
    nop
    .quad   0                               // text_offset
    .quad   __image_size                    // image_size
    .quad   0b1010                          // flags: little endian, 4 KiB pages, any 2 MiB base
    .quad   {root} - _head                  // res2: where the root page stands
    .quad   0                               // res3: where the payload stands; written by the tools
    .quad   0                               // res4
    .ascii  "ARM\x64"
    .ascii  "BJR1"

.section .text.boot, "ax"
primary_entry:
    msr     daifset, #0xf
    mov     x19, x0                         // the device tree
    bl      enter_el1

    // The kernel is linked to one place. Anywhere else its absolute pointers are wrong.
    adrp    x0, _head
    ldr     x1, =_head
    sub     x1, x1, x0
    mov     x2, #0xffff000000000000
    cmp     x1, x2
    b.ne    boot_park

    // First tables. Kernel addresses are physical ones with the top 16 bits set, so one root serves both
    // halves: devices at 0, RAM at 1 GiB, and the gigabyte that holds the device tree.
    adrp    x20, boot_root
    adrp    x21, boot_level1
    mov     x0, x20
    add     x1, x21, #4096                  // the tables are neighbours
0:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    0b
    orr     x2, x21, #3                     // a table
    str     x2, [x20]
    ldr     x2, =0x0060000000000405         // 1 GiB of device memory at 0, never executed
    str     x2, [x21]
    ldr     x2, =0x0040000000000701         // 1 GiB of RAM, for now with all rights for EL1
    lsr     x3, x19, #30
    add     x4, x2, x3, lsl #30
    cbz     x3, 1f
    str     x4, [x21, x3, lsl #3]
1:  mov     x3, #0x40000000
    add     x4, x2, x3
    str     x4, [x21, #8]
    // They were written past the caches: nothing older may hide them.
    dmb     sy
    mov     x0, x20
2:  dc      ivac, x0
    add     x0, x0, #64
    cmp     x0, x1
    b.lo    2b
    dsb     sy

    mov     x0, x20
    bl      enable_mmu
    ldr     x0, =primary_mapped
    br      x0

// x0: root table for both halves. Returns with the MMU on, at the same (identity mapped) addresses.
enable_mmu:
    tlbi    vmalle1
    dsb     nsh
    ldr     x1, ={mair}
    msr     mair_el1, x1
    ldr     x1, ={tcr}
    mrs     x2, id_aa64mmfr0_el1
    and     x3, x2, #0xf                    // PARange, at most 48 bits
    cmp     x3, #5
    mov     x4, #5
    csel    x3, x3, x4, lo
    orr     x1, x1, x3, lsl #32             // TCR_EL1.IPS
    ubfx    x3, x2, #4, #4                  // ASIDBits
    cmp     x3, #2
    cset    x3, eq
    orr     x1, x1, x3, lsl #36             // TCR_EL1.AS
    msr     tcr_el1, x1
    msr     ttbr0_el1, x0
    msr     ttbr1_el1, x0
    isb
    ldr     x1, ={sctlr}
    mrs     x2, id_aa64mmfr1_el1
    ubfx    x2, x2, #20, #4                 // PAN
    cmp     x2, #0
    cset    x2, eq
    orr     x1, x1, x2, lsl #23             // SPAN is RES1 where there is no PAN
    ic      iallu
    dsb     nsh
    msr     sctlr_el1, x1
    isb
    ret

boot_park:
    wfe
    b       boot_park

primary_mapped:
    adrp    x0, __bss_start
    adrp    x1, __bss_end
    bl      clear_lines
    adrp    x0, {boot_thread}
    add     x0, x0, :lo12:{boot_thread}
    msr     tpidr_el1, x0
    adrp    x0, __boot_stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    bl      init_cpu
    mov     x0, x19
    b       {kernel_start}

// Zeros [x0, x1), both at page boundaries, as fast as the CPU can.
clear_lines:
    mrs     x2, dczid_el0
    tbnz    x2, #4, 1f                      // DC ZVA is prohibited
    and     x2, x2, #0xf
    mov     x3, #4
    lsl     x3, x3, x2
0:  cmp     x0, x1
    b.hs    2f
    dc      zva, x0
    add     x0, x0, x3
    b       0b
1:  cmp     x0, x1
    b.hs    2f
    stp     xzr, xzr, [x0], #16
    b       1b
2:  ret

// What every CPU sets once at EL1, with the MMU on.
init_cpu:
    ldr     x0, =vectors
    msr     vbar_el1, x0
    mov     x0, #(3 << 20)                  // FP and Advanced SIMD for EL0 and EL1; SVE and SME trap
    msr     cpacr_el1, x0
    mov     x0, #(1 << 1)                   // EL0 reads the virtual counter
    msr     cntkctl_el1, x0
    msr     oslar_el1, xzr
    mov     x0, #(1 << 12)                  // EL0 has no debug communication channel; no debug at EL1
    msr     mdscr_el1, x0
    msr     tpidr_el0, xzr
    msr     tpidrro_el0, xzr
    mrs     x0, id_aa64dfr0_el1
    ubfx    x0, x0, #8, #4                  // PMUVer: 0 none, 15 not architected
    sub     x0, x0, #1
    cmp     x0, #14
    b.hs    0f
    msr     pmuserenr_el0, xzr
0:  mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #44, #4                 // AMU
    cbz     x0, 1f
    msr     s3_3_c13_c2_3, xzr              // AMUSERENR_EL0
1:  mrs     x0, id_aa64mmfr1_el1
    ubfx    x0, x0, #20, #4
    cbz     x0, 2f
    .inst   0xd500419f                      // msr pan, #1
2:  isb
    ret

// Goes down to EL1 if it started at EL2. Keeps x19 and up. The MMU is off on both levels.
enter_el1:
    ldr     x1, =0x30d00800                 // SCTLR_EL1: RES1 bits, MMU and caches off
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.eq    0f
    msr     sctlr_el1, x1
    isb
    ret
0:  msr     sctlr_el1, x1
    mov     x0, #(1 << 31)                  // HCR_EL2.RW: EL1 is AArch64; nothing else is trapped
    msr     hcr_el2, x0
    isb
    mov     x0, #3                          // CNTHCTL_EL2: EL1 may use the physical counter and timer
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mrs     x0, id_aa64pfr0_el1
    ubfx    x2, x0, #24, #4                 // GIC system registers
    cbz     x2, 1f
    mrs     x2, s3_4_c12_c9_5               // ICC_SRE_EL2: SRE, Enable
    orr     x2, x2, #1
    orr     x2, x2, #8
    msr     s3_4_c12_c9_5, x2
    isb
    mrs     x2, s3_4_c12_c9_5
    tbz     x2, #0, 1f
    msr     s3_4_c12_c11_0, xzr             // ICH_HCR_EL2
1:  mrs     x2, midr_el1
    msr     vpidr_el2, x2
    mrs     x2, mpidr_el1
    msr     vmpidr_el2, x2
    mov     x2, #0x33ff                     // CPTR_EL2: RES1 bits; SVE and SME trap
    msr     cptr_el2, x2
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x2, id_aa64dfr0_el1
    ubfx    x2, x2, #8, #4
    sub     x2, x2, #1
    mov     x3, xzr
    cmp     x2, #14
    b.hs    2f
    mrs     x3, pmcr_el0
    ubfx    x3, x3, #11, #5                 // MDCR_EL2.HPMN: all counters are EL1's
2:  msr     mdcr_el2, x3
    mrs     x2, id_aa64mmfr0_el1
    ubfx    x2, x2, #56, #4                 // FGT
    cbz     x2, 3f
    msr     s3_4_c1_c1_4, xzr               // HFGRTR_EL2
    msr     s3_4_c1_c1_5, xzr               // HFGWTR_EL2
    msr     s3_4_c1_c1_6, xzr               // HFGITR_EL2
    msr     s3_4_c3_c1_4, xzr               // HDFGRTR_EL2
    msr     s3_4_c3_c1_5, xzr               // HDFGWTR_EL2
    ubfx    x2, x0, #44, #4                 // AMU
    cbz     x2, 3f
    msr     s3_4_c3_c1_6, xzr               // HAFGRTR_EL2
3:  mrs     x2, id_aa64mmfr1_el1
    ubfx    x2, x2, #40, #4                 // HCX
    cbz     x2, 4f
    msr     s3_4_c1_c2_2, xzr               // HCRX_EL2
4:  mov     x0, #0x3c5                      // EL1h, everything masked
    msr     spsr_el2, x0
    msr     elr_el2, x30
    eret

// A secondary CPU, started by PSCI with the MMU off. x0: address of its `SecondaryStart`, physical.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    mov     x19, x0
    bl      enter_el1
    adrp    x0, boot_root
    bl      enable_mmu
    ldr     x0, =secondary_mapped
    br      x0
secondary_mapped:
    mov     x0, #0xffff000000000000
    orr     x19, x19, x0
    ldp     x20, x21, [x19]                 // kernel root, thread
    ldp     x22, x23, [x19, #16]            // stack top, entry
    msr     ttbr1_el1, x20
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     tpidr_el1, x21
    mov     sp, x22
    mov     x29, xzr
    mov     x30, xzr
    bl      init_cpu
    adrp    x0, reserved_root
    mov     x1, #0xffff000000000000
    sub     x0, x0, x1
    msr     ttbr0_el1, x0
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    br      x23

// Not in the part of .bss that is zeroed: these are in use while that happens.
.section .bss.boot, "aw", %nobits
.balign 4096
boot_root:
    .skip   4096
boot_level1:
    .skip   4096
.section .bss, "aw", %nobits
.balign 4096
.global reserved_root
reserved_root:
    .skip   4096
