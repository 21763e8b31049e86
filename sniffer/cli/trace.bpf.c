/* Of copies on their way to the uplink that the kernel drops: how many, where, of which device, for which reason.
 * Only devices of the network namespace NETNS: a kernel may be that of several nodes. BCC compiles it;
 * sniffer/cli/trace.py defines the numbers of the kernel that runs. */

struct loss {
	u64 place;
	u32 reason;
	u32 ifindex;
};

BPF_HASH(losses, struct loss, u64, 4096);

/* args: the skb, where in the kernel it is freed, since 5.17 why. */
int raw_tracepoint__kfree_skb(struct bpf_raw_tracepoint_args *ctx)
{
	struct loss loss = {.place = ctx->args[1]};
	u64 device = 0, net = 0;
	u32 mark = 0, netns = NETNS;

	bpf_probe_read_kernel(&mark, sizeof(mark), (void *)(ctx->args[0] + OFFSET_MARK));
	if ((mark & MARK_COPY_MASK) != MARK_COPY)
		return 0;
	bpf_probe_read_kernel(&device, sizeof(device), (void *)(ctx->args[0] + OFFSET_DEV));
	if (device) {
		bpf_probe_read_kernel(&loss.ifindex, sizeof(loss.ifindex), (void *)(device + OFFSET_IFINDEX));
		bpf_probe_read_kernel(&net, sizeof(net), (void *)(device + OFFSET_NET));
		bpf_probe_read_kernel(&netns, sizeof(netns), (void *)(net + OFFSET_NETNS));
	}
	if (netns != NETNS)
		return 0;
#if HAS_REASONS
	loss.reason = ctx->args[2];
#endif
	losses.increment(loss);
	return 0;
}
