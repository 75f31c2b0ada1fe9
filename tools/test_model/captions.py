"""Captions made of the words that captions of photographs have; what the small tokenizers are trained on."""

NOUNS = """
cat dog bird horse cow sheep goat duck swan goose fox deer rabbit squirrel butterfly bee fish whale seal owl eagle gull
man woman child girl boy people person couple family crowd fisherman sailor farmer dancer musician cyclist
house home cottage castle church tower lighthouse bridge harbour harbor pier port village town city street road path
square market shop window door wall roof stairs garden park fence gate barn mill farm field meadow hill mountain valley
forest wood tree oak pine birch leaf leaves flower rose tulip sunflower grass moss fern mushroom stone rock cliff cave
beach sand sea ocean wave lake river stream waterfall island coast shore ice snow rain fog mist cloud sky sun moon star
stars sunset sunrise dawn dusk night morning evening autumn winter spring summer storm rainbow shadow reflection light
boat ship sail ferry train tram bus car truck bicycle motorcycle plane balloon wheel engine station airport railway
table chair bench lamp clock book cup glass bottle bowl plate bread cheese apple orange lemon grape cake coffee tea wine
hat coat scarf umbrella bag basket rope anchor net flag kite ball guitar piano violin camera sign statue fountain temple
desert dune volcano glacier canyon bay marsh pond bush branch feather shell pebble nest
""".split()

ADJECTIVES = """
old new small large big tall tiny young white black red blue green yellow brown grey golden silver dark bright quiet
calm stormy misty foggy snowy sunny cloudy rainy wooden stone empty crowded narrow wide wild soft warm cold frozen
distant colourful colorful beautiful ancient modern abandoned
""".split()

PREPOSITIONS = "in on at by near above below behind under over across along through beside between".split()

VERBS = """
sitting standing running walking sleeping flying swimming looking holding riding playing resting eating jumping waiting
""".split()

STYLES = """
a photo of|a photograph of|a close-up of|a portrait of|a view of|an aerial view of|a black and white photo of|a picture of
""".strip().split("|")

ENDINGS = """
in the morning light|at sunset|at night|on a sunny day|with a blue sky|in the background|in the foreground|high detail|
seen from above|with soft light|sharp focus|wide angle|shallow depth of field|film grain|natural light|long exposure
""".replace("\n", "").strip().split("|")


def captions() -> list[str]:
    """Each noun in several captions, with strides that have no common factor, so that the words mix."""
    made = []
    for index in range(4 * len(NOUNS)):
        noun, other = NOUNS[index % len(NOUNS)], NOUNS[(7 * index + 3) % len(NOUNS)]
        adjective = ADJECTIVES[(5 * index) % len(ADJECTIVES)]
        preposition = PREPOSITIONS[index % len(PREPOSITIONS)]
        verb = VERBS[(3 * index + index // len(NOUNS)) % len(VERBS)]
        style = STYLES[(index // 3) % len(STYLES)]
        ending = ENDINGS[(5 * index + 1) % len(ENDINGS)]
        made.append(f"{style} a {adjective} {noun} {verb} {preposition} the {other}, {ending}")
    return made
