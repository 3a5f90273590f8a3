# Builds a User-mode Linux kernel out of Debian's linux-source-6.1 into the file $OUT,
# with the configuration $CONFIG. It takes a quarter of an hour of one core.
set -eu
source=/usr/src/linux-source-6.1.tar.xz
[ -e "$source" ] || { echo "no $source: scripts/deps install" >&2; exit 1; }
mkdir -p "$WORK"
tar xJf "$source" --strip-components=1 -C "$WORK"
cd "$WORK"

# Cpusets want more than one processor, which User-mode Linux has not: the kubelet asks
# for the controller all the same. What the scheduler would say of deadlines on several
# processors is always yes on one.
sed -i '/^config CPUSETS/,/help/s/depends on SMP/depends on CGROUPS/' init/Kconfig
cat >>kernel/cgroup/cpuset.c <<'CODE'
int task_can_attach(struct task_struct *p) { return (p->flags & PF_NO_SETAFFINITY) ? -EINVAL : 0; }
int dl_bw_alloc(int cpu, u64 dl_bw) { return 0; }
void dl_bw_free(int cpu, u64 dl_bw) { }
int cpuset_cpumask_can_shrink(const struct cpumask *cur, const struct cpumask *trial) { return 1; }
CODE

make -s ARCH=um x86_64_defconfig
cat "$CONFIG" >>.config
make -s ARCH=um olddefconfig
# What another option forbids is left out without a word.
grep '^CONFIG_' "$CONFIG" | while read -r option; do
	grep -qxF "$option" .config || { echo "the kernel refuses $option" >&2; exit 1; }
done
nice make -s ARCH=um linux
strip -o "$OUT.new" linux
mv "$OUT.new" "$OUT"
rm -rf "$WORK"
