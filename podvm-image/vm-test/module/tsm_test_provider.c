// SPDX-License-Identifier: GPL-2.0
/*
 * Test only, never in an image: a TSM report provider and runtime measurement registers without a
 * TEE, so that tests meet the kernel's own configfs and sysfs semantics.
 *
 * A report is what was written to the file test/template of the device (a TD quote), with the registers
 * and the input in their places; without a template it is the input alone.
 * The registers have the names, the modes and the meaning that Linux 6.16 gives them for TDX:
 * reading gives 48 bytes, writing exactly 48 extends by SHA-384.
 *
 * Parameters, writable in /sys/module/tsm_test_provider/parameters:
 *   failures  so many of the next reports fail
 *   error     with this errno
 *   auxiliary bytes of auxblob, none if 0
 */
#include <crypto/hash.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/tsm.h>

#define REGISTER_BYTES 48
#define REGISTERS 4

/* Places in a TD quote of version 4: header, body. */
#define REGISTERS_AT (48 + 328)
#define INPUT_AT (48 + 520)

static unsigned int failures;
module_param(failures, uint, 0600);
static unsigned int error = EBUSY;
module_param(error, uint, 0600);
static unsigned int auxiliary;
module_param(auxiliary, uint, 0600);

static DEFINE_MUTEX(lock);
static u8 template[2 * PAGE_SIZE];
static size_t template_length;
static u8 registers[REGISTERS][REGISTER_BYTES];
static u8 config_id[REGISTER_BYTES];
static struct crypto_shash *sha384;

static int report_new(struct tsm_report *report, void *data)
{
	bool is_quote;
	size_t length;
	u8 *blob, *more = NULL;

	guard(mutex)(&lock);
	if (failures) {
		failures--;
		return -(int)error;
	}
	is_quote = template_length >= INPUT_AT + TSM_INBLOB_MAX;
	length = is_quote ? template_length : report->desc.inblob_len;
	blob = kvzalloc(length, GFP_KERNEL);
	if (!blob)
		return -ENOMEM;
	if (auxiliary) {
		more = kvzalloc(auxiliary, GFP_KERNEL);
		if (!more) {
			kvfree(blob);
			return -ENOMEM;
		}
		memset(more, 'x', auxiliary);
	}
	if (is_quote) {
		memcpy(blob, template, length);
		memcpy(blob + REGISTERS_AT, registers, sizeof(registers));
	}
	memcpy(blob + (is_quote ? INPUT_AT : 0), report->desc.inblob, report->desc.inblob_len);
	report->outblob = blob;
	report->outblob_len = length;
	report->auxblob = more;
	report->auxblob_len = auxiliary;
	return 0;
}

static bool attribute_visible(int n)
{
	return n == TSM_REPORT_GENERATION || n == TSM_REPORT_PROVIDER;
}

static bool blob_visible(int n)
{
	return n == TSM_REPORT_INBLOB || n == TSM_REPORT_OUTBLOB || n == TSM_REPORT_AUXBLOB;
}

static const struct tsm_ops ops = {
	.name = "tdx_guest",
	.report_new = report_new,
	.report_attr_visible = attribute_visible,
	.report_bin_attr_visible = blob_visible,
};

static ssize_t register_read(struct file *file, struct kobject *kobj, struct bin_attribute *attr,
			     char *buffer, loff_t offset, size_t count)
{
	guard(mutex)(&lock);
	return memory_read_from_buffer(buffer, count, &offset, attr->private, REGISTER_BYTES);
}

static ssize_t register_write(struct file *file, struct kobject *kobj, struct bin_attribute *attr,
			      char *buffer, loff_t offset, size_t count)
{
	u8 both[2 * REGISTER_BYTES];
	int status;

	if (offset || count != REGISTER_BYTES)
		return -EINVAL;
	guard(mutex)(&lock);
	memcpy(both, attr->private, REGISTER_BYTES);
	memcpy(both + REGISTER_BYTES, buffer, REGISTER_BYTES);
	status = crypto_shash_tfm_digest(sha384, both, sizeof(both), attr->private);
	return status ? status : count;
}

#define REGISTER(number, permissions, writer)                                   \
	static struct bin_attribute rtmr##number = {                            \
		.attr = { .name = "rtmr" #number ":sha384", .mode = permissions }, \
		.size = REGISTER_BYTES,                                         \
		.private = registers[number],                                   \
		.read = register_read,                                          \
		.write = writer,                                                \
	}

REGISTER(0, 0444, NULL);
REGISTER(1, 0444, NULL);
REGISTER(2, 0644, register_write);
REGISTER(3, 0644, register_write);

static struct bin_attribute mrconfigid = {
	.attr = { .name = "mrconfigid", .mode = 0444 },
	.size = REGISTER_BYTES,
	.private = config_id,
	.read = register_read,
};

static struct bin_attribute *measurements[] = {
	&mrconfigid, &rtmr0, &rtmr1, &rtmr2, &rtmr3, NULL,
};

static const struct attribute_group group = {
	.name = "measurements",
	.bin_attrs = measurements,
};

static ssize_t template_write(struct file *file, struct kobject *kobj, struct bin_attribute *attr,
			      char *buffer, loff_t offset, size_t count)
{
	guard(mutex)(&lock);
	if (offset + count > sizeof(template))
		return -EFBIG;
	memcpy(template + offset, buffer, count);
	template_length = offset + count;
	return count;
}

static struct bin_attribute template_file = {
	.attr = { .name = "template", .mode = 0200 },
	.size = sizeof(template),
	.write = template_write,
};

static struct bin_attribute *tests[] = { &template_file, NULL };

static const struct attribute_group test_group = {
	.name = "test",
	.bin_attrs = tests,
};

static const struct attribute_group *groups[] = { &group, &test_group, NULL };

/* Opening it gives ENOTTY for every call, as there is no TDX module behind it. */
static const struct file_operations operations = { .owner = THIS_MODULE };

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tdx_guest",
	.fops = &operations,
	.groups = groups,
};

static int __init provider_init(void)
{
	int status;

	sha384 = crypto_alloc_shash("sha384", 0, 0);
	if (IS_ERR(sha384))
		return PTR_ERR(sha384);
	status = misc_register(&device);
	if (status)
		goto free;
	status = tsm_register(&ops, NULL);
	if (!status)
		return 0;
	misc_deregister(&device);
free:
	crypto_free_shash(sha384);
	return status;
}

static void __exit provider_exit(void)
{
	tsm_unregister(&ops);
	misc_deregister(&device);
	crypto_free_shash(sha384);
}

module_init(provider_init);
module_exit(provider_exit);
MODULE_DESCRIPTION("TSM report provider for tests");
MODULE_LICENSE("GPL");
