// SPDX-License-Identifier: MIT OR GPL-2.0-or-later
/*
 * Times dma_map_single() and dma_unmap_single() on QEMU's edu device.
 *
 * The device has two files in sysfs. Writing to `bench`
 *
 *	THREADS BYTES to|from|both ITERATIONS
 *
 * has THREADS kernel threads, one on each of the first CPUs and all at once,
 * map and unmap a buffer of BYTES bytes of their own ITERATIONS times each.
 * Reading it gives average, median and 99th percentile of both calls in ticks
 * of the virtual counter, over all threads, and how many passed in all. Where
 * the machine counts instructions instead of time, and the counter runs at
 * 1 GHz, these are instructions. What reading the counter costs is taken off.
 *
 * With a fifth word `el2`, and one thread, it also gives how many instructions
 * were executed at EL2 in all calls of each kind. To tell it has the CPU's own
 * counter read between them, so that the timer, which goes on, interrupts more
 * of the calls: for their times use a run without it.
 *
 * With a fifth word `spread`, the threads work for all edu devices there are, one
 * after the other, and not for that of the file alone.
 *
 * Writing
 *
 *	BYTES COUNT
 *
 * to `hold` maps a buffer of BYTES bytes COUNT times and keeps the mappings
 * until the next such line, so that what mapping alone causes can be counted
 * from outside, or how the others fare among them; a COUNT of 0 keeps none.
 * Every device keeps its own.
 *
 * Writing
 *
 *	map IOVA PHYSICAL BYTES
 *	unmap IOVA BYTES
 *	try PHYSICAL BYTES
 *	join NAME
 *
 * to `domain` maps memory in the domain that the device is in, whoever it belongs
 * to: that is what a hostile kernel could ask of an IOMMU that another one runs.
 * `try` moves the device to a domain that has such a mapping already. With
 * virtio-iommu only that fails when the mapping is refused: for any other one
 * Linux 6.12 does not look at the status. It leaves the device where nothing is
 * mapped. `join` moves the device to the domain of another one, for good.
 *
 * Nothing but the mappings is made: the device is told of none of them.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/kthread.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/perf_event.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>
#include <asm/arch_timer.h>

#define MOST_THREADS 8
#define MOST_ITERATIONS 200000
#define MOST_BYTES (16UL << 20)
/* What the kernel hands out in one piece, and how many it is asked for at most. */
#define PIECE_ORDER MAX_PAGE_ORDER
#define PIECE (PAGE_SIZE << PIECE_ORDER)
#define MOST_PIECES 64
#define MOST_HELD 131072

struct plan {
	struct device *dev;
	unsigned int threads, iterations;
	size_t bytes;
	enum dma_data_direction direction;
	/* Counts instructions at EL2, where that was asked for. */
	struct perf_event *el2;
	bool spread;
	u64 map_el2, unmap_el2;
	struct completion go;
	atomic_t ready, left;
	struct completion done;
};

struct worker {
	struct plan *plan;
	struct device *dev;
	/* First half for the maps, second for the unmaps. */
	u32 *samples;
	int error;
};

static DEFINE_MUTEX(lock);
static char result[512] = "nothing was measured yet\n";

static int by_address(const void *a, const void *b)
{
	unsigned long left = *(const unsigned long *)a, right = *(const unsigned long *)b;

	return left < right ? -1 : left > right;
}

/*
 * A buffer in one piece of memory, or 0. What is larger than the kernel hands out
 * is put together from pieces that happen to lie side by side: of those of a
 * machine that has just started most do.
 */
static unsigned long take(size_t bytes)
{
	unsigned long pieces[MOST_PIECES], found = 0;
	unsigned int wanted = DIV_ROUND_UP(bytes, PIECE), taken, i, run = 0;

	if (wanted <= 1)
		return __get_free_pages(GFP_KERNEL | __GFP_COMP | __GFP_ZERO,
					get_order(bytes));
	for (taken = 0; taken < MOST_PIECES; taken++) {
		pieces[taken] = __get_free_pages(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN,
						 PIECE_ORDER);
		if (!pieces[taken])
			break;
	}
	sort(pieces, taken, sizeof(*pieces), by_address, NULL);
	for (i = 0; i < taken && !found; i++) {
		run = i && pieces[i] == pieces[i - 1] + PIECE ? run + 1 : 1;
		/* Aligned like what the kernel hands out, so that blocks fit. */
		if (run >= wanted && !((pieces[i] + PIECE - bytes) % bytes))
			found = pieces[i] + PIECE - bytes;
	}
	for (i = 0; i < taken; i++)
		if (!found || pieces[i] < found || pieces[i] >= found + bytes)
			free_pages(pieces[i], PIECE_ORDER);
	return found;
}

static void give_back(unsigned long at, size_t bytes)
{
	size_t done;

	if (!at)
		return;
	if (bytes <= PIECE) {
		free_pages(at, get_order(bytes));
		return;
	}
	for (done = 0; done < bytes; done += PIECE)
		free_pages(at + done, PIECE_ORDER);
}

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

static u64 at_el2(struct plan *plan)
{
	u64 enabled, running;

	return plan->el2 ? perf_event_read_value(plan->el2, &enabled, &running) : 0;
}

static int work(void *data)
{
	struct worker *worker = data;
	struct plan *plan = worker->plan;
	struct device *dev = worker->dev;
	unsigned int i;
	u32 *maps = worker->samples, *unmaps = maps + plan->iterations;
	unsigned long buffer = take(plan->bytes);

	worker->error = buffer ? 0 : -ENOMEM;
	atomic_inc(&plan->ready);
	wait_for_completion(&plan->go);
	for (i = 0; i < plan->iterations && !worker->error; i++) {
		u64 before = at_el2(plan), between;
		u64 start = __arch_counter_get_cntvct(), end;
		dma_addr_t at = dma_map_single(dev, (void *)buffer,
					       plan->bytes, plan->direction);

		end = __arch_counter_get_cntvct();
		if (dma_mapping_error(dev, at)) {
			worker->error = -EIO;
			break;
		}
		maps[i] = end - start;
		between = at_el2(plan);
		plan->map_el2 += between - before;
		start = __arch_counter_get_cntvct();
		dma_unmap_single(dev, at, plan->bytes, plan->direction);
		end = __arch_counter_get_cntvct();
		unmaps[i] = end - start;
		plan->unmap_el2 += at_el2(plan) - between;
		if (i % 64 == 63)
			cond_resched();
	}
	give_back(buffer, plan->bytes);
	if (atomic_dec_and_test(&plan->left))
		complete(&plan->done);
	return 0;
}

static int by_size(const void *a, const void *b)
{
	u32 left = *(const u32 *)a, right = *(const u32 *)b;

	return left < right ? -1 : left > right;
}

/* Adds what the `count` samples say; sorts them. */
static int describe(char *text, size_t room, const char *what, u32 *samples,
		    unsigned int count, u32 less)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		sum += samples[i] - min(samples[i], less);
	sort(samples, count, sizeof(*samples), by_size, NULL);
	return scnprintf(text, room, "%s_sum=%llu %s_avg=%llu %s_p50=%u %s_p99=%u ",
			 what, sum, what, div_u64(sum + count / 2, count),
			 what, samples[count / 2] - min(samples[count / 2], less),
			 what, samples[count - 1 - count / 100] -
			 min(samples[count - 1 - count / 100], less));
}

static struct pci_driver bench_driver;

/* Gives one more device to every thread whose turn it is. */
struct spreading {
	struct worker *workers;
	/* The thread whose turn is next, and how many devices there are. */
	unsigned int next, devices;
};

static int count_device(struct device *dev, void *data)
{
	((struct spreading *)data)->devices++;
	return 0;
}

static int give_device(struct device *dev, void *data)
{
	struct spreading *spreading = data;
	unsigned int i;

	for (i = spreading->next; i < MOST_THREADS; i += spreading->devices)
		spreading->workers[i].dev = dev;
	spreading->next++;
	return 0;
}

static void spread(struct worker *workers)
{
	struct spreading spreading = { .workers = workers };

	driver_for_each_device(&bench_driver.driver, NULL, &spreading, count_device);
	driver_for_each_device(&bench_driver.driver, NULL, &spreading, give_device);
}

static int measure(struct plan *plan)
{
	struct worker workers[MOST_THREADS] = {};
	size_t each = plan->iterations, all = each * plan->threads;
	/* All maps of all threads together, then all unmaps, for sorting. */
	u32 *maps = vzalloc(2 * all * sizeof(u32)), *unmaps = maps + all;
	u32 *samples = vzalloc(2 * all * sizeof(u32));
	u32 less = overhead();
	u64 start;
	unsigned int i, started = 0;
	int error = maps && samples ? 0 : -ENOMEM, length;

	init_completion(&plan->go);
	init_completion(&plan->done);
	atomic_set(&plan->ready, 0);
	atomic_set(&plan->left, plan->threads);
	for (i = 0; i < MOST_THREADS; i++)
		workers[i].dev = plan->dev;
	if (plan->spread)
		spread(workers);
	for (i = 0; i < plan->threads && !error; i++) {
		struct task_struct *task;

		workers[i].plan = plan;
		workers[i].samples = samples + 2 * each * i;
		task = kthread_create_on_cpu(work, &workers[i], i, "dma_bench/%u");
		if (IS_ERR(task)) {
			error = PTR_ERR(task);
			break;
		}
		wake_up_process(task);
		started++;
	}
	/* Those that were not started are not waited for. */
	if (error) {
		plan->iterations = 0;
		atomic_sub(plan->threads - started, &plan->left);
	}
	while (atomic_read(&plan->ready) < started)
		msleep(1);
	start = __arch_counter_get_cntvct();
	complete_all(&plan->go);
	if (started)
		wait_for_completion(&plan->done);
	start = __arch_counter_get_cntvct() - start;
	for (i = 0; i < started && !error; i++) {
		error = workers[i].error;
		memcpy(maps + each * i, workers[i].samples, each * sizeof(u32));
		memcpy(unmaps + each * i, workers[i].samples + each, each * sizeof(u32));
	}
	if (!error) {
		length = scnprintf(result, sizeof(result), "count=%zu cntfrq=%u elapsed=%llu ",
				   all, arch_timer_get_cntfrq(), start);
		length += describe(result + length, sizeof(result) - length, "map",
				   maps, all, less);
		length += describe(result + length, sizeof(result) - length, "unmap",
				   unmaps, all, less);
		if (plan->el2)
			length += scnprintf(result + length, sizeof(result) - length,
					    "map_el2=%llu unmap_el2=%llu",
					    plan->map_el2, plan->unmap_el2);
		scnprintf(result + length, sizeof(result) - length, "\n");
	}
	vfree(samples);
	vfree(maps);
	return error;
}

static ssize_t bench_store(struct device *dev, struct device_attribute *attribute,
			   const char *text, size_t length)
{
	struct plan plan = { .dev = dev };
	char direction[8], more[8] = "";
	int error;

	if (sscanf(text, "%u %zu %7s %u %7s", &plan.threads, &plan.bytes, direction,
		   &plan.iterations, more) < 4)
		return -EINVAL;
	if (!plan.threads || plan.threads > min(MOST_THREADS, num_online_cpus()) ||
	    !plan.bytes || plan.bytes > MOST_BYTES ||
	    (plan.bytes > PIECE && !is_power_of_2(plan.bytes)) ||
	    !plan.iterations || plan.iterations > MOST_ITERATIONS)
		return -ERANGE;
	if (!strcmp(direction, "to"))
		plan.direction = DMA_TO_DEVICE;
	else if (!strcmp(direction, "from"))
		plan.direction = DMA_FROM_DEVICE;
	else if (!strcmp(direction, "both"))
		plan.direction = DMA_BIDIRECTIONAL;
	else
		return -EINVAL;
	if (!strcmp(more, "el2") && plan.threads == 1)
		plan.el2 = el2_counter();
	else if (!strcmp(more, "spread"))
		plan.spread = true;
	else if (*more)
		return -EINVAL;
	if (IS_ERR(plan.el2))
		return PTR_ERR(plan.el2);
	mutex_lock(&lock);
	error = measure(&plan);
	mutex_unlock(&lock);
	if (plan.el2)
		perf_event_release_kernel(plan.el2);
	return error ? error : length;
}

static ssize_t bench_show(struct device *dev, struct device_attribute *attribute,
			  char *text)
{
	ssize_t length;

	mutex_lock(&lock);
	length = sysfs_emit(text, "%s", result);
	mutex_unlock(&lock);
	return length;
}
static DEVICE_ATTR_RW(bench);

/* What is mapped for `hold`. */
struct held {
	unsigned long buffer;
	size_t bytes;
	unsigned int count;
	dma_addr_t *at;
};

static void let_go(struct device *dev)
{
	struct held *held = dev_get_drvdata(dev);

	while (held->count) {
		held->count--;
		dma_unmap_single(dev, held->at[held->count], held->bytes,
				 DMA_BIDIRECTIONAL);
		if (held->count % 64 == 0)
			cond_resched();
	}
	give_back(held->buffer, held->bytes);
	held->buffer = 0;
	vfree(held->at);
	held->at = NULL;
}

static int hold(struct device *dev, size_t bytes, unsigned int count)
{
	struct held *held = dev_get_drvdata(dev);

	held->bytes = bytes;
	held->at = vzalloc(count * sizeof(*held->at));
	held->buffer = take(bytes);
	if (!held->buffer || !held->at)
		return -ENOMEM;
	while (held->count < count) {
		dma_addr_t at = dma_map_single(dev, (void *)held->buffer, bytes,
					       DMA_BIDIRECTIONAL);

		if (dma_mapping_error(dev, at))
			return -EIO;
		held->at[held->count++] = at;
		if (held->count % 64 == 0)
			cond_resched();
	}
	return 0;
}

static ssize_t hold_store(struct device *dev, struct device_attribute *attribute,
			  const char *text, size_t length)
{
	unsigned int count;
	size_t bytes;
	int error = 0;

	if (sscanf(text, "%zu %u", &bytes, &count) != 2)
		return -EINVAL;
	if (!bytes || bytes > MOST_BYTES || count > MOST_HELD ||
	    (bytes > PIECE && !is_power_of_2(bytes)))
		return -ERANGE;
	mutex_lock(&lock);
	let_go(dev);
	if (count)
		error = hold(dev, bytes, count);
	if (error)
		let_go(dev);
	mutex_unlock(&lock);
	return error ? error : length;
}
static DEVICE_ATTR_WO(hold);

#define RIGHTS (IOMMU_READ | IOMMU_WRITE)

/*
 * Moves the device to a new domain with one mapping, one to one. What a domain
 * takes it knows only once a device has been in it.
 */
static int try(struct device *dev, phys_addr_t physical, size_t bytes)
{
	struct iommu_domain *domain = iommu_paging_domain_alloc(dev);
	int error;

	if (IS_ERR(domain))
		return PTR_ERR(domain);
	error = iommu_attach_device(domain, dev);
	if (error)
		goto out;
	iommu_detach_device(domain, dev);
	error = iommu_map(domain, physical, physical, bytes, RIGHTS, GFP_KERNEL);
	if (error)
		goto out;
	error = iommu_attach_device(domain, dev);
	if (!error)
		iommu_detach_device(domain, dev);
out:
	iommu_domain_free(domain);
	return error;
}

/* Moves the device to the domain of the PCI function `name`. */
static int join(struct device *dev, const char *name)
{
	struct device *other = bus_find_device_by_name(&pci_bus_type, NULL, name);
	struct iommu_domain *domain;
	int error = -ENODEV;

	if (!other)
		return error;
	domain = iommu_get_domain_for_dev(other);
	if (domain && other != dev)
		error = iommu_attach_device(domain, dev);
	put_device(other);
	return error;
}

static ssize_t domain_store(struct device *dev, struct device_attribute *attribute,
			   const char *text, size_t length)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);
	unsigned long iova, bytes;
	phys_addr_t physical;
	char name[16];
	int error = 0;

	if (!domain)
		return -ENODEV;
	mutex_lock(&lock);
	if (sscanf(text, "map %li %lli %li", &iova, &physical, &bytes) == 3)
		error = iommu_map(domain, iova, physical, bytes, RIGHTS, GFP_KERNEL);
	else if (sscanf(text, "unmap %li %li", &iova, &bytes) == 2)
		error = iommu_unmap(domain, iova, bytes) == bytes ? 0 : -ENOENT;
	else if (sscanf(text, "try %lli %li", &physical, &bytes) == 2)
		error = try(dev, physical, bytes);
	else if (sscanf(text, "join %15s", name) == 1)
		error = join(dev, name);
	else
		error = -EINVAL;
	mutex_unlock(&lock);
	return error ? error : length;
}
static DEVICE_ATTR_WO(domain);

static struct attribute *bench_attrs[] = {
	&dev_attr_bench.attr, &dev_attr_hold.attr, &dev_attr_domain.attr, NULL
};
ATTRIBUTE_GROUPS(bench);

static int probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct held *held = devm_kzalloc(&pci->dev, sizeof(*held), GFP_KERNEL);

	if (!held)
		return -ENOMEM;
	pci_set_drvdata(pci, held);
	return dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(64));
}

static void remove(struct pci_dev *pci)
{
	mutex_lock(&lock);
	let_go(&pci->dev);
	mutex_unlock(&lock);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver bench_driver = {
	.name = "dma_bench",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.dev_groups = bench_groups,
};
module_pci_driver(bench_driver);

MODULE_DESCRIPTION("Times single DMA mappings on QEMU's edu device");
MODULE_LICENSE("Dual MIT/GPL");
