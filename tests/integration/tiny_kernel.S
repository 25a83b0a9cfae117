/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
   SPDX-License-Identifier: GPL-3.0-or-later

   The smallest kernel that GRUB takes for Linux (Documentation/arch/x86/boot.rst, protocol 2.06): it prints its command
   line to the first serial port and resets the machine, so that the next boot follows. */
	.code16
	.org	0x1f1
	.byte	1			/* setup_sects: one besides the boot sector */
	.word	0
	.long	(end - start + 15) / 16	/* syssize */
	.word	0, 0, 0
	.word	0xaa55			/* boot_flag */
	.byte	0xeb, 0x66		/* jump over the header */
	.ascii	"HdrS"
	.word	0x0206			/* version */
	.long	0
	.word	0, 0
	.byte	0, 1			/* loaded high */
	.word	0x8000
	.long	0x100000		/* code32_start */
	.long	0, 0, 0
	.word	0, 0
	.long	0
	.long	0x37ffffff		/* initrd_addr_max */
	.long	0x1000
	.byte	0, 0
	.word	0
	.long	2048			/* cmdline_size */

	.org	1024
	.code32
start:	mov	$0x3f8, %dx
	mov	$'[', %al
	out	%al, %dx
	mov	0x228(%esi), %ebx	/* boot_params.hdr.cmd_line_ptr */
1:	mov	(%ebx), %al
	test	%al, %al
	jz	2f
	out	%al, %dx
	inc	%ebx
	jmp	1b
2:	mov	$']', %al
	out	%al, %dx
	mov	$'\n', %al
	out	%al, %dx
	mov	$0xfe, %al		/* the keyboard controller's reset line */
	out	%al, $0x64
3:	hlt
	jmp	3b
	.org	2048
end:
