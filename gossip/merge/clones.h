/* One body, three instruction sets (baseline, AVX2, AVX-512), chosen by the loader from CPUID bits, for the
 * loops of gossip/merge.  The bits are the same in all three: these files are compiled without contraction
 * into fused multiply-add, and sums run in lanes that the source fixes.  Off under sanitizers and coverage,
 * whose run time is not up when the loader asks, and with compilers other than gcc. */
#ifndef DUNLIN_GOSSIP_MERGE_CLONES_H
#define DUNLIN_GOSSIP_MERGE_CLONES_H

#ifdef GOSSIP_USE_CLONES
#define GOSSIP_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define GOSSIP_CLONES
#endif

#endif
