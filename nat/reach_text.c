/* What a profile means, in words. */
#include <stdarg.h>
#include <stdio.h>

#include "nat/reach.h"

const char *nat_reach_mapping_text(enum nat_reach_mapping mapping)
{
    switch (mapping) {
    case NAT_REACH_MAPPING_UNKNOWN:
        return "unknown, needs another public peer";
    case NAT_REACH_MAPPING_NONE:
        return "no NAT";
    case NAT_REACH_MAPPING_INDEPENDENT:
        return "one port for all destinations";
    case NAT_REACH_MAPPING_ADDRESS:
        return "a port for each destination address";
    case NAT_REACH_MAPPING_ADDRESS_PORT:
        return "a port for each destination";
    }
    return "unknown";
}

const char *nat_reach_filtering_text(enum nat_reach_filtering filtering)
{
    switch (filtering) {
    case NAT_REACH_FILTERING_UNKNOWN:
        return "filtering unknown";
    case NAT_REACH_FILTERING_INDEPENDENT:
        return "lets in anyone";
    case NAT_REACH_FILTERING_ADDRESS:
        return "lets in addresses written to";
    case NAT_REACH_FILTERING_ADDRESS_PORT:
        return "lets in exactly the ports written to";
    }
    return "unknown";
}

const char *nat_reach_verdict_text(enum nat_reach_verdict verdict)
{
    switch (verdict) {
    case NAT_REACH_UNKNOWN:
        return "unknown";
    case NAT_REACH_REACHABLE:
        return "reachable";
    case NAT_REACH_UNREACHABLE:
        return "not reachable";
    }
    return "unknown";
}

const char *nat_reach_why_text(enum nat_reach_why why)
{
    switch (why) {
    case NAT_REACH_WHY_PROVEN:
        return "other peers tried";
    case NAT_REACH_WHY_PENDING:
        return "being tried";
    case NAT_REACH_WHY_NO_HELPER:
        return "too few public peers can help";
    case NAT_REACH_WHY_NO_STRANGER:
        return "only peers we have written to could try";
    case NAT_REACH_WHY_ADDRESS:
        return "other peers see us at another address";
    case NAT_REACH_WHY_DISAGREE:
        return "other peers contradict each other";
    }
    return "unknown";
}

static size_t append(char text[NAT_REACH_TEXT_MAX], size_t len, const char *format, ...) PRINTF_LIKE(3, 4);

static size_t append(char text[NAT_REACH_TEXT_MAX], size_t len, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int added = vsnprintf(text + len, NAT_REACH_TEXT_MAX - len, format, args);
    va_end(args);
    ASSERT(added >= 0 && (size_t)added < NAT_REACH_TEXT_MAX - len);
    return len + (size_t)added;
}

void nat_reach_describe(const struct nat_reach_profile *profile, char text[NAT_REACH_TEXT_MAX])
{
    size_t len = append(text, 0, "%s", nat_reach_mapping_text(profile->mapping));
    if (profile->mapping >= NAT_REACH_MAPPING_ADDRESS && profile->step != 0)
        len = append(text, len, " in steps of %+d", profile->step);
    else if (profile->mapping >= NAT_REACH_MAPPING_ADDRESS)
        len = append(text, len, ", at random");
    if (profile->address_varies)
        len = append(text, len, ", several outer addresses");
    if (profile->main_differs)
        len = append(text, len, ", our port is shared with another host");
    if (profile->filtering != NAT_REACH_FILTERING_UNKNOWN)
        len = append(text, len, ", %s", nat_reach_filtering_text(profile->filtering));
    if (profile->life_ns != 0)
        len = append(text, len, ", mappings end after %u s", (unsigned)(profile->life_ns / 1000000000U));
    ASSERT(len < NAT_REACH_TEXT_MAX);
}
