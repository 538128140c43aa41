// SPDX-License-Identifier: MIT OR GPL-2.0-or-later
/*
 * Has the kernel's own driver send commands to the interrupt translation service,
 * and times each call that does.
 *
 * It takes the MSI-X vectors of virtio-serial functions that nothing else drives;
 * a function is never told to do anything. The file `bench` of each in sysfs takes
 *
 *	OPERATION NUMBER [el2]
 *
 *	allocate NUMBER	pci_alloc_irq_vectors() of that many	MAPD, then a MAPTI each
 *	request		request_irq() of each, left disabled	MAPTI
 *	start		enable_irq() of each, the first time
 *	mask		disable_irq_nosync() of each		INV
 *	unmask		enable_irq() of each			INV
 *	move NUMBER	irq_set_affinity() of each to that CPU	MOVI
 *	free		free_irq() of each			DISCARD, if not started
 *	release		pci_free_irq_vectors()			a DISCARD each, then MAPD
 *	read NUMBER	that many reads of registers of the ITS	none
 *	tell NUMBER	smp_call_function_single() on that CPU	none
 *
 * where allocate, request and start come in this order, and the others after them.
 * What allocate maps, the first free unmaps. NUMBER stands there in any case. The
 * calls are made on CPU 0. Reading the file gives how many there were, the ticks of
 * the virtual counter that the middle one of them took, and with `el2` the
 * instructions at EL2 of the middle one and of the most expensive one. Where the
 * machine counts instructions instead of time, and the counter runs at 1 GHz, ticks
 * are instructions. What reading the counter costs is taken off.
 */
#include <linux/cpumask.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/of_address.h>
#include <linux/pci.h>
#include <linux/perf_event.h>
#include <linux/smp.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/arch_timer.h>

#define MOST_CALLS 16384

struct bench {
	struct pci_dev *pci;
	void __iomem *its;
	unsigned int vectors;
	bool requested, started;
	/* What was measured last. */
	char result[128];
};

struct plan {
	struct bench *bench;
	const struct operation *operation;
	unsigned int number;
	/* Counts instructions at EL2, where that was asked for. */
	struct perf_event *el2;
	/* Ticks of each call, and instructions at EL2. */
	u32 *ticks, *at_el2;
};

struct operation {
	const char *name;
	/* How many calls, or 0 where there cannot be any now. */
	unsigned int (*calls)(struct bench *bench, unsigned int number);
	/* The call of number `i`. */
	int (*call)(struct bench *bench, unsigned int i, unsigned int number);
	/* What holds afterwards. */
	void (*after)(struct bench *bench);
};

static DEFINE_MUTEX(lock);

static irqreturn_t ignore(int irq, void *data)
{
	return IRQ_HANDLED;
}

static unsigned int allocating(struct bench *bench, unsigned int number)
{
	return !bench->vectors && number ? 1 : 0;
}

static int allocate(struct bench *bench, unsigned int i, unsigned int number)
{
	int vectors = pci_alloc_irq_vectors(bench->pci, number, number, PCI_IRQ_MSIX);

	if (vectors < 0)
		return vectors;
	bench->vectors = vectors;
	return 0;
}

static unsigned int requesting(struct bench *bench, unsigned int number)
{
	return bench->requested ? 0 : bench->vectors;
}

static int request(struct bench *bench, unsigned int i, unsigned int number)
{
	return request_irq(pci_irq_vector(bench->pci, i), ignore, IRQF_NO_AUTOEN,
			   "irq_bench", bench);
}

static void was_requested(struct bench *bench)
{
	bench->requested = true;
}

static unsigned int starting(struct bench *bench, unsigned int number)
{
	return bench->requested && !bench->started ? bench->vectors : 0;
}

static int start(struct bench *bench, unsigned int i, unsigned int number)
{
	unsigned int irq = pci_irq_vector(bench->pci, i);

	/* Or else it would be masked only when it is raised. */
	irq_set_status_flags(irq, IRQ_DISABLE_UNLAZY);
	enable_irq(irq);
	return 0;
}

static void was_started(struct bench *bench)
{
	bench->started = true;
}

static unsigned int using(struct bench *bench, unsigned int number)
{
	return bench->started ? bench->vectors : 0;
}

static int mask(struct bench *bench, unsigned int i, unsigned int number)
{
	disable_irq_nosync(pci_irq_vector(bench->pci, i));
	return 0;
}

static int unmask(struct bench *bench, unsigned int i, unsigned int number)
{
	enable_irq(pci_irq_vector(bench->pci, i));
	return 0;
}

static unsigned int moving(struct bench *bench, unsigned int number)
{
	return number < nr_cpu_ids && cpu_online(number) ? using(bench, number) : 0;
}

static int move(struct bench *bench, unsigned int i, unsigned int number)
{
	return irq_set_affinity(pci_irq_vector(bench->pci, i), cpumask_of(number));
}

static unsigned int freeing(struct bench *bench, unsigned int number)
{
	return bench->requested ? bench->vectors : 0;
}

static int free_one(struct bench *bench, unsigned int i, unsigned int number)
{
	free_irq(pci_irq_vector(bench->pci, i), bench);
	return 0;
}

static void was_freed(struct bench *bench)
{
	bench->requested = bench->started = false;
}

static unsigned int releasing(struct bench *bench, unsigned int number)
{
	return bench->vectors && !bench->requested ? 1 : 0;
}

static int release(struct bench *bench, unsigned int i, unsigned int number)
{
	pci_free_irq_vectors(bench->pci);
	bench->vectors = 0;
	return 0;
}

static unsigned int reading(struct bench *bench, unsigned int number)
{
	return bench->its ? number : 0;
}

/* GITS_CTLR, IIDR, TYPER, CBASER, CWRITER, CREADR, BASER<n>, PIDR2 (IHI 0069, 12.19). */
static int read_register(struct bench *bench, unsigned int i, unsigned int number)
{
	static const u16 narrow[] = { 0x0000, 0x0004, 0xffe8 };
	static const u16 wide[] = { 0x0008, 0x0080, 0x0088, 0x0090, 0x0100, 0x0108,
				    0x0110, 0x0118, 0x0120, 0x0128, 0x0130, 0x0138 };

	i %= ARRAY_SIZE(narrow) + ARRAY_SIZE(wide);
	if (i < ARRAY_SIZE(narrow))
		readl_relaxed(bench->its + narrow[i]);
	else
		readq_relaxed(bench->its + wide[i - ARRAY_SIZE(narrow)]);
	return 0;
}

/* As many as there are vectors, so that it is as often as the others. */
static unsigned int telling(struct bench *bench, unsigned int number)
{
	return number && number < nr_cpu_ids && cpu_online(number) ? bench->vectors : 0;
}

static void nothing(void *data)
{
}

static int tell(struct bench *bench, unsigned int i, unsigned int number)
{
	return smp_call_function_single(number, nothing, NULL, 1);
}

static const struct operation operations[] = {
	{ "allocate", allocating, allocate, NULL },
	{ "request", requesting, request, was_requested },
	{ "start", starting, start, was_started },
	{ "mask", using, mask, NULL },
	{ "unmask", using, unmask, NULL },
	{ "move", moving, move, NULL },
	{ "free", freeing, free_one, was_freed },
	{ "release", releasing, release, NULL },
	{ "read", reading, read_register, NULL },
	{ "tell", telling, tell, NULL },
};

/* What two reads of the counter, one after the other, are apart. */
static u32 overhead(void)
{
	u32 least = U32_MAX;
	int i;

	for (i = 0; i < 64; i++) {
		u64 start = __arch_counter_get_cntvct();

		least = min_t(u64, least, __arch_counter_get_cntvct() - start);
	}
	return least;
}

static u64 at_el2(struct plan *plan)
{
	u64 enabled, running;

	return plan->el2 ? perf_event_read_value(plan->el2, &enabled, &running) : 0;
}

static int by_size(const void *a, const void *b)
{
	u32 left = *(const u32 *)a, right = *(const u32 *)b;

	return left < right ? -1 : left > right;
}

static long measure(void *data)
{
	struct plan *plan = data;
	unsigned int calls = plan->operation->calls(plan->bench, plan->number), i;
	char *result = plan->bench->result;
	const size_t room = sizeof(plan->bench->result);
	u32 less = overhead();
	int error = 0, length;

	if (!calls || calls > MOST_CALLS)
		return -ERANGE;
	for (i = 0; i < calls && !error; i++) {
		u64 before = at_el2(plan);
		u64 start = __arch_counter_get_cntvct(), end;

		error = plan->operation->call(plan->bench, i, plan->number);
		end = __arch_counter_get_cntvct();
		plan->at_el2[i] = at_el2(plan) - before;
		plan->ticks[i] = end - start;
		cond_resched();
	}
	if (error)
		return error;
	if (plan->operation->after)
		plan->operation->after(plan->bench);
	sort(plan->ticks, calls, sizeof(*plan->ticks), by_size, NULL);
	sort(plan->at_el2, calls, sizeof(*plan->at_el2), by_size, NULL);
	length = scnprintf(result, room, "count=%u cntfrq=%u p50=%u",
			   calls, arch_timer_get_cntfrq(),
			   plan->ticks[calls / 2] - min(plan->ticks[calls / 2], less));
	if (plan->el2)
		length += scnprintf(result + length, room - length,
				    " el2_p50=%u el2_most=%u", plan->at_el2[calls / 2],
				    plan->at_el2[calls - 1]);
	scnprintf(result + length, room - length, "\n");
	return 0;
}

static struct perf_event *el2_counter(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.size = sizeof(attr),
		.exclude_user = 1,
		.exclude_kernel = 1,
	};

	return perf_event_create_kernel_counter(&attr, 0, NULL, NULL, NULL);
}

static const struct operation *find(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(operations); i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	return NULL;
}

static ssize_t bench_store(struct device *dev, struct device_attribute *attribute,
			   const char *text, size_t length)
{
	struct plan plan = { .bench = dev_get_drvdata(dev) };
	char name[16], more[8] = "";
	long error;

	if (sscanf(text, "%15s %u %7s", name, &plan.number, more) < 2)
		return -EINVAL;
	plan.operation = find(name);
	if (!plan.operation || (*more && strcmp(more, "el2")))
		return -EINVAL;
	plan.ticks = vmalloc(array3_size(2, MOST_CALLS, sizeof(*plan.ticks)));
	if (!plan.ticks)
		return -ENOMEM;
	plan.at_el2 = plan.ticks + MOST_CALLS;
	if (*more)
		plan.el2 = el2_counter();
	if (IS_ERR(plan.el2)) {
		error = PTR_ERR(plan.el2);
	} else {
		mutex_lock(&lock);
		error = work_on_cpu(0, measure, &plan);
		mutex_unlock(&lock);
		if (plan.el2)
			perf_event_release_kernel(plan.el2);
	}
	vfree(plan.ticks);
	return error ? error : length;
}

static ssize_t bench_show(struct device *dev, struct device_attribute *attribute,
			  char *text)
{
	struct bench *bench = dev_get_drvdata(dev);
	ssize_t length;

	mutex_lock(&lock);
	length = sysfs_emit(text, "%s", bench->result);
	mutex_unlock(&lock);
	return length;
}
static DEVICE_ATTR_RW(bench);

static struct attribute *bench_attrs[] = { &dev_attr_bench.attr, NULL };
ATTRIBUTE_GROUPS(bench);

static int probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct bench *bench = devm_kzalloc(&pci->dev, sizeof(*bench), GFP_KERNEL);
	struct device_node *node;
	int error;

	if (!bench)
		return -ENOMEM;
	bench->pci = pci;
	pci_set_drvdata(pci, bench);
	error = pcim_enable_device(pci);
	if (error)
		return error;
	node = of_find_compatible_node(NULL, NULL, "arm,gic-v3-its");
	bench->its = node ? of_iomap(node, 0) : NULL;
	of_node_put(node);
	return bench->its ? 0 : -ENODEV;
}

static void remove(struct pci_dev *pci)
{
	struct bench *bench = pci_get_drvdata(pci);
	unsigned int i;

	for (i = 0; bench->requested && i < bench->vectors; i++)
		free_one(bench, i, 0);
	if (bench->vectors)
		pci_free_irq_vectors(pci);
	iounmap(bench->its);
}

/* virtio-serial, as QEMU has it with disable-legacy=on. */
static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1af4, 0x1043) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver bench_driver = {
	.name = "irq_bench",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.dev_groups = bench_groups,
};
module_pci_driver(bench_driver);

MODULE_DESCRIPTION("Times what sends commands to the interrupt translation service");
MODULE_LICENSE("Dual MIT/GPL");
