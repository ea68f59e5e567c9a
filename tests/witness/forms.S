# Every AES instruction in every form, one function each; and code among which data lies. Assembled into the
# program that the tests watch. Each form function takes nothing and returns nothing; chain functions see below.
        .text

        .macro  function name
        .p2align 4
        .globl  \name
        .type   \name, @function
\name:
        .cfi_startproc
        .endm

        .macro  end name
        .cfi_endproc
        .size   \name, . - \name
        .endm

        .macro  form name, instruction:vararg
        function \name
        \instruction
        ret
        end     \name
        .endm

        form    legacy_aesenc, aesenc %xmm1, %xmm0
        form    legacy_aesenclast, aesenclast %xmm9, %xmm8
        form    legacy_aesdec, aesdec %xmm1, %xmm0
        form    legacy_aesdeclast, aesdeclast %xmm1, %xmm10
        form    legacy_aesimc, aesimc %xmm1, %xmm0
        form    legacy_aeskeygenassist, aeskeygenassist $1, %xmm1, %xmm0

        form    vex128_vaesenc, vaesenc %xmm1, %xmm2, %xmm0
        form    vex128_vaesenclast, vaesenclast %xmm9, %xmm2, %xmm8
        form    vex128_vaesdec, vaesdec %xmm1, %xmm2, %xmm0
        form    vex128_vaesdeclast, vaesdeclast %xmm1, %xmm2, %xmm0
        form    vex128_vaesimc, vaesimc %xmm1, %xmm0
        form    vex128_vaeskeygenassist, vaeskeygenassist $1, %xmm1, %xmm0

        form    vex256_vaesenc, vaesenc %ymm1, %ymm2, %ymm0
        form    vex256_vaesenclast, vaesenclast %ymm9, %ymm2, %ymm8
        form    vex256_vaesdec, vaesdec %ymm1, %ymm2, %ymm0
        form    vex256_vaesdeclast, vaesdeclast %ymm1, %ymm2, %ymm0

        form    evex128_vaesenc, vaesenc %xmm17, %xmm2, %xmm16
        form    evex128_vaesenclast, vaesenclast %xmm17, %xmm2, %xmm16
        form    evex128_vaesdec, vaesdec %xmm17, %xmm2, %xmm16
        form    evex128_vaesdeclast, vaesdeclast %xmm17, %xmm2, %xmm16

        form    evex256_vaesenc, vaesenc %ymm17, %ymm2, %ymm16
        form    evex256_vaesenclast, vaesenclast %ymm17, %ymm2, %ymm16
        form    evex256_vaesdec, vaesdec %ymm17, %ymm2, %ymm16
        form    evex256_vaesdeclast, vaesdeclast %ymm17, %ymm2, %ymm16

        form    evex512_vaesenc, vaesenc %zmm1, %zmm2, %zmm0
        form    evex512_vaesenclast, vaesenclast %zmm1, %zmm2, %zmm0
        form    evex512_vaesdec, vaesdec %zmm1, %zmm2, %zmm0
        form    evex512_vaesdeclast, vaesdeclast %zmm17, %zmm2, %zmm31

# void chain(void* block, uint64_t rounds): a computation in which every instruction counts, with keys from
# memory by RIP-relative operands, and flags and a red zone that live across the instructions.
        function chain
        movdqu  (%rdi), %xmm0
        movq    $0x1234567, -8(%rsp)
1:      aesenc  key0(%rip), %xmm0
        aesenc  key1(%rip), %xmm0
        cmpq    $0x1234567, -8(%rsp)
        aesdec  key0(%rip), %xmm0
        aesenclast key1(%rip), %xmm0
        aesimc  %xmm0, %xmm1
        jne     2f
        aeskeygenassist $7, %xmm1, %xmm2
        pxor    %xmm2, %xmm0
        aesdeclast %xmm1, %xmm0
        decq    %rsi
        jnz     1b
        movdqu  %xmm0, (%rdi)
        ret
2:      ud2
        end     chain

# uint64_t data_inside(void): adds up bytes that look like AES instructions and lie inside the function, behind
# a jump and before code that is jumped to. Patched, the sum would be another.
        function data_inside
        xorl    %eax, %eax
        leaq    3f(%rip), %rsi
        movl    $(4f - 3f), %ecx
1:      movzbl  (%rsi), %edx
        addq    %rdx, %rax
        incq    %rsi
        decl    %ecx
        jnz     1b
        aesenc  %xmm1, %xmm0
        jmp     4f
3:      aesenc  %xmm2, %xmm3
        aesdec  %xmm4, %xmm5
4:      aesenclast %xmm1, %xmm0
        ret
        end     data_inside

# The same, with bytes behind which front-to-back reading is out of step.
        function odd_data_inside
        xorl    %eax, %eax
        leaq    3f(%rip), %rsi
        movl    $(4f - 3f), %ecx
1:      movzbl  (%rsi), %edx
        addq    %rdx, %rax
        incq    %rsi
        decl    %ecx
        jnz     1b
        jmp     4f
3:      aesenc  %xmm2, %xmm3
        .byte   0x48, 0xb8
4:      aesdec  %xmm1, %xmm0
        ret
        end     odd_data_inside

# Outside every function: no symbol with a size, no call frame information.
        .p2align 4
        .globl  outside
outside:
        aesenc  %xmm1, %xmm0
        ret

        .section .rodata
        .p2align 4
key0:   .quad   0x0123456789abcdef, 0xfedcba9876543210
key1:   .quad   0x0f1e2d3c4b5a6978, 0x8796a5b4c3d2e1f0

        .section .note.GNU-stack, "", @progbits
