/* The row of one experiment. */
#include <math.h>

#include "gossip/codec.h"
#include "tools/converge/converge.h"

static void number(FILE *to, const char *name, double value)
{
    if (isfinite(value))
        fprintf(to, ", \"%s\": %.9g", name, value);
    else
        fprintf(to, ", \"%s\": null", name);
}

static void count(FILE *to, const char *name, uint64_t value)
{
    fprintf(to, ", \"%s\": %llu", name, (unsigned long long)value);
}

static void text(FILE *to, const char *name, const char *value)
{
    fprintf(to, ", \"%s\": \"%s\"", name, value);
}

static void print_settings(FILE *to, const struct converge_config *c)
{
    const struct converge_disturbance *d = &c->disturb;
    fprintf(to, "\"method\": \"%s\"", converge_method_name((int)c->method));
    text(to, "codec", gossip_codec_name(c->codec));
    count(to, "nodes", c->nodes);
    count(to, "seed", c->seed);
    count(to, "h", c->h);
    count(to, "fragments", c->fragments);
    text(to, "order", converge_order_name((int)c->order));
    text(to, "start", converge_start_name((int)c->start));
    text(to, "correction", converge_correction_name((int)c->correction));
    text(to, "attack", converge_attack_name((int)c->attack));
    number(to, "strength", c->strength);
    fprintf(to, ", \"gates\": %s", c->gates ? "true" : "false");
    number(to, "rate", c->rate);
    count(to, "steps", c->steps);
    count(to, "warm_steps", c->start == CONVERGE_WARM ? c->warm_steps : 0);
    count(to, "batch", c->batch);
    count(to, "context", c->model.context);
    text(to, "model", train_model_kind_name(c->model.kind));
    number(to, "fail", d->fail);
    number(to, "one_sided", d->one_sided);
    count(to, "straggler", d->straggler);
    number(to, "join", d->join);
    fprintf(to, ", \"partition\": %s, \"non_iid\": %s", d->partition ? "true" : "false",
            d->shards ? "true" : "false");
    count(to, "kill", d->kill);
    count(to, "late", d->late);
}

static void print_curve(FILE *to, const struct converge_config *c, const struct converge_result *r)
{
    fprintf(to, ", \"curve\": [");
    for (size_t i = 0; i < r->curve_count; i++) {
        const char *comma = i > 0 ? ", " : "";
        if (isfinite(r->curve[i].loss))
            fprintf(to, "%s[%u, %.5f]", comma, r->curve[i].cycle, r->curve[i].loss);
        else
            fprintf(to, "%s[%u, null]", comma, r->curve[i].cycle);
    }
    fprintf(to, "], \"crossings\": [");
    size_t shown = 0;
    for (size_t t = 0; t < CONVERGE_THRESHOLDS_MAX; t++) {
        if (!(c->thresholds[t] > 0))
            continue;
        fprintf(to, "%s{\"loss\": %g, \"cycle\": ", shown++ > 0 ? ", " : "", c->thresholds[t]);
        if (r->crossing[t] >= 0)
            fprintf(to, "%.3f}", r->crossing[t]);
        else
            fprintf(to, "null}");
    }
    fprintf(to, "]");
}

void converge_print(FILE *to, const struct converge_config *config, const struct converge_result *r)
{
    fprintf(to, "{");
    print_settings(to, config);
    number(to, "ppl_mean", r->ppl_mean);
    number(to, "ppl_merged", r->ppl_merged);
    number(to, "ppl_worst", r->ppl_worst);
    number(to, "ppl_training", r->ppl_training);
    number(to, "accuracy", r->accuracy);
    number(to, "spread", r->spread);
    number(to, "bytes_per_node_round", r->bytes_per_node_round);
    number(to, "bytes_per_node", r->bytes_per_node);
    number(to, "bytes_per_value", r->bytes_per_value);
    number(to, "ppl_finish", r->ppl_finish);
    number(to, "spread_finish", r->spread_finish);
    count(to, "finish_rounds", r->finish_rounds);
    count(to, "rounds", r->rounds);
    count(to, "merges", r->merges);
    count(to, "solos", r->solos);
    count(to, "refused", r->refused);
    count(to, "clipped", r->clipped);
    count(to, "corrected", r->corrected);
    count(to, "blocks", r->blocks);
    count(to, "resent", r->resent);
    count(to, "tokens", r->tokens);
    count(to, "parameters", r->parameters);
    number(to, "warm_ppl", r->warm_ppl);
    number(to, "seconds", r->seconds);
    print_curve(to, config, r);
    fprintf(to, "}\n");
}
